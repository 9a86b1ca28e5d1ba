//! Records of an archive's extended headers (POSIX pax): `<length> <key>=<value>\n`, where a value
//! may have any bytes. Pure.

/// Bytes of one extended header, or of one long name, at most: the attributes of a file are smaller.
pub(super) const MAX_HEAD: u64 = 1024 * 1024;
/// How the key of an extended attribute begins.
pub(super) const XATTR: &[u8] = b"SCHILY.xattr.";

/// Adds a record.
pub(super) fn push(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    // The space, the equals sign and the line's end; the length counts its own digits too.
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + digits(length) {
        length = rest + digits(length);
    }
    records.extend_from_slice(length.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn digits(number: usize) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

/// The records of an extended header, in their order; `None` where it is none.
pub(super) fn records(mut bytes: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let space = bytes.iter().position(|byte| *byte == b' ')?;
        let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
        let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        found.push((&record[..equals], &record[equals + 1..]));
        bytes = &bytes[length..];
    }
    Some(found)
}

/// Seconds since 1970 and nanoseconds, as a record tells a time.
pub(super) fn time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !part.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanoseconds: u32 = format!("{part:0<9.9}").parse().ok()?;
    match (whole.starts_with('-'), nanoseconds) {
        (false, _) | (true, 0) => Some((seconds, nanoseconds)),
        // Half a second before 1970 is the middle of the second that began a whole one before it.
        (true, _) => Some((seconds.checked_sub(1)?, 1_000_000_000 - nanoseconds)),
    }
}

/// The same, to be read back.
pub(super) fn time_text(seconds: i64, nanoseconds: u32) -> String {
    match (seconds, nanoseconds) {
        (_, 0) => seconds.to_string(),
        (..0, _) => {
            let (whole, part) = (seconds + 1, 1_000_000_000 - nanoseconds);
            format!("-{}.{part:09}", whole.unsigned_abs())
        }
        (0.., _) => format!("{seconds}.{nanoseconds:09}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_record_counts_its_own_length() {
        for (length, text) in [(1_usize, "6 k=x\n"), (3, "8 k=xxx\n"), (4, "9 k=xxxx\n"), (5, "11 k=xxxxx\n")] {
            let mut records = Vec::new();
            push(&mut records, b"k", "x".repeat(length).as_bytes());
            assert_eq!(records, text.as_bytes());
        }
    }

    #[test]
    fn what_is_no_record_is_none() {
        for bytes in [&b"x"[..], b"5 a=b", b"6 a=bx", b"0 a=b\n", b"3 a=b\n", b"99 a=b\n", b"-1 a=b\n", b"5 abc\n"] {
            assert_eq!(records(bytes), None, "{}", String::from_utf8_lossy(bytes));
        }
        assert_eq!(records(b""), Some(vec![]));
    }

    #[test]
    fn times_before_1970_and_between_seconds_come_back() {
        for (seconds, nanoseconds) in
            [(0, 0), (1, 5), (-1, 500_000_000), (-1, 0), (-3, 1), (1_800_000_000, 999_999_999)]
        {
            let text = time_text(seconds, nanoseconds);
            assert_eq!(time(text.as_bytes()), Some((seconds, nanoseconds)), "{text}");
        }
        assert_eq!(time(b"7.25"), Some((7, 250_000_000)));
        for text in ["", "x", "1.x", "1.-5"] {
            assert_eq!(time(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_value_comes_back(values in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..8)) {
            let mut bytes = Vec::new();
            for value in &values {
                push(&mut bytes, b"SCHILY.xattr.user.a", value);
            }
            let found: Vec<_> = records(&bytes).unwrap().into_iter().map(|(_, value)| value.to_vec()).collect();
            prop_assert_eq!(found, values);
        }

        #[test]
        fn any_bytes_are_read_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = records(&bytes);
        }
    }
}
