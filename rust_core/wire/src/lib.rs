//! What lies below an SMTP session: sockets that never block, an epoll set, a machine that cuts command lines, the trace of plain mail, what
//! can be told of conditions on it, and the pace at which mail comes.
//!
//! Called by the binding crate, which puts the two together for the Python servers. Invariants: no call blocks; a line that is handed out
//! was ended by CR LF and is within the limit; everything else is reported as what it is. Fails with `io::Error`, never by a panic.

mod condition;
mod lines;
mod origin;
mod pace;
mod poller;
mod socket;

pub use condition::{Condition, Order, Step, Test, Text, values};
pub use lines::{Cut, Cutter, LINE_LIMIT};
pub use origin::{Origin, plain_name};
pub use pace::Pace;
pub use poller::{Interest, Poller, Ready};
pub use socket::{Peer, Socket, accept};
