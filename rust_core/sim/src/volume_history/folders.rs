//! Folders and mailboxes that go and are made again, also while mail for them is under way.

use std::sync::Arc;

use super::{FOLDER, FOLDERS, Mail, Run};

impl Run<'_> {
    /// The second folder goes with its mail, or is made again; now and then the whole mailbox goes. The next delivery makes it anew.
    pub(super) fn folders(&mut self) -> Result<(), String> {
        let (volume, mut after) = (self.volume(), self.mail[0].clone());
        if self.rng.chance(30) {
            let result = volume.delete_mailbox(&self.mailbox);
            return self.done("mailbox deleted", &result, Mail::new());
        }
        if after.contains(&FOLDER) {
            after.retain(|(folder, ..)| *folder != FOLDER.0);
            let result = volume.delete_folder(&self.mailbox, FOLDERS[FOLDER.0]);
            return self.done("folder deleted", &result, after);
        }
        after.push(FOLDER);
        after.sort();
        let result = volume.create_folder(&self.mailbox, FOLDERS[FOLDER.0], "").map(drop);
        self.done("folder made", &result, after)
    }

    /// The next delivery that reads a message has its mailbox deleted at that moment.
    pub(super) fn delete_meanwhile(&mut self) {
        if !self.index_refuses && !self.chaos.excuses(&self.disk) && self.rng.chance(4) {
            let volume = self.volume();
            *self.octets.1.lock() = Some((Arc::clone(&volume), self.mailbox));
        }
        self.deletes = self.octets.1.lock().is_some();
    }

    pub(super) fn deleted_meanwhile(&mut self) {
        if std::mem::take(&mut self.deletes) && self.octets.1.lock().take().is_none() {
            self.diary.note(|| "the mailbox was deleted meanwhile".into());
            self.mail = vec![Mail::new()];
        }
    }
}
