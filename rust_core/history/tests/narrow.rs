//! Words and globs that much mail has, asked of the few messages that a state or a moment leaves over: the same mail as if each row were looked at.

mod room;

use gatepost_history::{Filter, Scope};
use gatepost_queue::{MessageId, State, kind, now_us};
use room::{Room, by};

#[test]
fn a_state_or_a_moment_beside_globs_and_common_words_neither_hides_mail_nor_adds_any() {
    let room = Room::new(16 << 20);
    let report = |n: usize| room.accept(&format!("s{}@a.example", n % 3), &["r@b.example"], &format!("weekly report part {n}"));
    let stay: Vec<MessageId> = (0..12).map(report).collect();
    let pass: Vec<MessageId> = (0..1100).map(report).collect();
    let moment = now_us();
    // What happens within the same microsecond has happened.
    while now_us() <= moment {}
    for id in &pass {
        room.change(*id, None, kind::DELIVERED, "{}");
    }
    room.fill(2);
    let with = |sender: &str, subject: &str| by(|f| (f.sender, f.subject) = (sender.into(), subject.into()));
    let ids = |filter: &Filter, scope| -> Vec<MessageId> {
        let page = room.page(filter, scope, None, 100_000, true);
        page.found.into_iter().map(|found| found.message.id).collect()
    };
    for (sender, subject) in [("s?@*", ""), ("s1@*", ""), ("", "weekly report"), ("s2@a*", "report weekly"), ("x*", ""), ("s0@*", "absent")]
    {
        let fits = |n: usize| {
            !subject.contains("absent")
                && match sender {
                    "s1@*" => n % 3 == 1,
                    "s2@a*" => n % 3 == 2,
                    "x*" => false,
                    _ => true,
                }
        };
        let chosen = |of: &[MessageId]| (0..of.len()).filter(|n| fits(*n)).map(|n| of[n]).collect::<Vec<_>>();
        let pending = Filter { outcome: Some(State::Pending), ..with(sender, subject) };
        assert_eq!(ids(&pending, Scope::All), chosen(&stay), "{sender} {subject}");
        // Of many that were there then, and of few that are there now.
        assert_eq!(ids(&with(sender, subject), Scope::At(moment)), [chosen(&stay), chosen(&pass)].concat(), "{sender} {subject}");
        assert_eq!(ids(&with(sender, subject), Scope::At(now_us())), chosen(&stay), "{sender} {subject}");
    }
}
