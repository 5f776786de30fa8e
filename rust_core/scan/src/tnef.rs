//! TNEF, the `winmail.dat` of Outlook: attachments under all their names, embedded messages, which are TNEF again.

use gatepost_mime::tnef::attachments;

use crate::budget::Stop;
use crate::report::Defect;
use crate::walk::Walker;

/// Open a TNEF stream.
pub fn read(walker: &mut Walker, id: u32, data: &[u8]) -> Result<(), Stop> {
    let Some(contents) = attachments(data) else {
        walker.entry(id).defect(Defect::Damaged);
        return Ok(());
    };
    if contents.broken {
        walker.entry(id).defect(Defect::Truncated);
    }
    for file in contents.files {
        let content = data.get(file.range).unwrap_or_default();
        let declared = file.mime_type.unwrap_or_default();
        walker.stored_as(id, &file.names, std::slice::from_ref(&declared), content)?;
    }
    Ok(())
}
