//! What the kernel says of a watched folder, in the protocol's words. Pure.

use rustix::fs::inotify::ReadFlags;
use wire::filesystem::EventType;

use super::paths::UploadKind;

/// Tells what happened. An upload is told by its file alone, in the words of a file that
/// is written where it is: it is made, gets its owner, is written. Its temporary file is ours.
#[derive(Debug, Default)]
pub(super) struct EventTranslator {
    /// An upload whose temporary file was just given another name, by what joins the two
    /// halves of that.
    finishing: Option<(u32, UploadKind)>,
}

impl EventTranslator {
    /// What one event of the kernel's says. `name` is that of the file in its folder.
    pub(super) fn tell(&mut self, flags: ReadFlags, cookie: u32, name: &str) -> &'static [EventType] {
        if let Some(kind) = UploadKind::of_temporary(name) {
            if flags.contains(ReadFlags::MOVED_FROM) {
                self.finishing = Some((cookie, kind));
            }
            return &[];
        }
        match flags {
            flags if flags.contains(ReadFlags::CREATE) => &[EventType::Create],
            flags if flags.contains(ReadFlags::MOVED_TO) => match self.finishing.take() {
                Some((of, UploadKind::New)) if of == cookie => &[EventType::Create, EventType::Chmod, EventType::Write],
                Some((of, UploadKind::Replacement)) if of == cookie => &[EventType::Chmod, EventType::Write],
                Some(_) | None => &[EventType::Create],
            },
            flags if flags.intersects(ReadFlags::MOVED_FROM | ReadFlags::MOVE_SELF) => &[EventType::Rename],
            flags if flags.intersects(ReadFlags::DELETE | ReadFlags::DELETE_SELF) => &[EventType::Remove],
            flags if flags.contains(ReadFlags::MODIFY) => &[EventType::Write],
            flags if flags.contains(ReadFlags::ATTRIB) => &[EventType::Chmod],
            _ => &[],
        }
    }
}

/// Whether something is at the path of such an event.
pub(super) const fn has_entry(kind: EventType) -> bool {
    match kind {
        EventType::Create | EventType::Write | EventType::Chmod => true,
        EventType::Remove | EventType::Rename | EventType::Unspecified => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use EventType::{Chmod, Create, Remove, Rename, Write};

    fn told(events: &[(ReadFlags, u32, &str)]) -> Vec<(String, EventType)> {
        let mut translator = EventTranslator::default();
        let tell = |(flags, cookie, name): &(ReadFlags, u32, &str)| {
            translator.tell(*flags, *cookie, name).iter().map(|kind| ((*name).to_owned(), *kind)).collect::<Vec<_>>()
        };
        events.iter().flat_map(tell).collect()
    }

    fn of(name: &str, kinds: &[EventType]) -> Vec<(String, EventType)> {
        kinds.iter().map(|kind| (name.to_owned(), *kind)).collect()
    }

    #[test]
    fn what_the_kernel_says_is_told_in_the_protocols_words() {
        let folder = ReadFlags::ISDIR;
        for (flags, kind) in [
            (ReadFlags::CREATE | folder, Create),
            (ReadFlags::MOVED_TO, Create),
            (ReadFlags::MOVED_FROM, Rename),
            (ReadFlags::MOVE_SELF, Rename),
            (ReadFlags::DELETE, Remove),
            (ReadFlags::DELETE_SELF, Remove),
            (ReadFlags::MODIFY, Write),
            (ReadFlags::ATTRIB | folder, Chmod),
        ] {
            assert_eq!(told(&[(flags, 0, "a")]), of("a", &[kind]), "{flags:?}");
        }
        assert_eq!(told(&[(ReadFlags::IGNORED, 0, "a"), (ReadFlags::OPEN, 0, "a")]), []);
    }

    #[test]
    fn an_upload_is_told_by_its_file_alone() {
        for (kind, words) in
            [(UploadKind::New, &[Create, Chmod, Write][..]), (UploadKind::Replacement, &[Chmod, Write])]
        {
            let name = kind.temporary_name(7);
            let events = [
                (ReadFlags::CREATE, 0, name.as_str()),
                (ReadFlags::MODIFY, 0, &name),
                (ReadFlags::ATTRIB, 0, &name),
                (ReadFlags::MOVED_FROM, 9, &name),
                (ReadFlags::MOVED_TO, 9, "a"),
            ];
            assert_eq!(told(&events), of("a", words));
        }
        let name = UploadKind::New.temporary_name(7);
        let other = [(ReadFlags::MOVED_FROM, 9, name.as_str()), (ReadFlags::MOVED_TO, 8, "a")];
        assert_eq!(told(&other), of("a", &[Create]), "another file that came");
        assert_eq!(told(&[(ReadFlags::CREATE, 0, &name), (ReadFlags::DELETE, 0, &name)]), [], "one that broke off");
    }
}
