//! Bytes in JSON: base64 as Go reads it, which lets line ends stand anywhere, and spare bits be anything.

/// The bytes; or the place at which a text is no base64.
pub(crate) fn decode(text: &str) -> Result<Vec<u8>, usize> {
    let input = text.as_bytes();
    let mut out = Vec::with_capacity(input.len() / 4 * 3);
    let mut at = 0;
    loop {
        let mut group = [0u8; 4];
        let mut have = 0;
        while have < 4 {
            let Some(byte) = input.get(at) else {
                // The place is that of the group that was begun.
                return if have == 0 { Ok(out) } else { Err(at - have) };
            };
            at += 1;
            match (value(*byte), byte) {
                (Some(v), _) => {
                    group[have] = v;
                    have += 1;
                }
                (None, b'\r' | b'\n') => {}
                (None, b'=') => {
                    padding(input, &mut at, have)?;
                    push(&mut out, group, have);
                    return if at < input.len() { Err(at) } else { Ok(out) };
                }
                (None, _) => return Err(at - 1),
            }
        }
        push(&mut out, group, have);
    }
}

/// What follows the first `=`, which stands after `have` letters of a group.
fn padding(input: &[u8], at: &mut usize, have: usize) -> Result<(), usize> {
    let lines = |at: &mut usize| {
        while matches!(input.get(*at), Some(b'\r' | b'\n')) {
            *at += 1;
        }
    };
    if have < 2 {
        return Err(*at - 1);
    }
    if have == 2 {
        lines(at);
        match input.get(*at) {
            None => return Err(input.len()),
            Some(b'=') => *at += 1,
            Some(_) => return Err(*at - 1),
        }
    }
    lines(at);
    Ok(())
}

fn push(out: &mut Vec<u8>, group: [u8; 4], have: usize) {
    let n = group.iter().fold(0u32, |n, v| n << 6 | u32::from(*v));
    let bytes = n.to_be_bytes();
    // Two letters hold one byte, three two, four three.
    out.extend_from_slice(&bytes[1..have.max(1)]);
}

fn value(byte: u8) -> Option<u8> {
    Some(match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    #[test]
    fn texts_are_read_as_go_reads_them() {
        let good: [(&str, &[u8]); 8] = [
            ("", b""),
            ("\n", b""),
            ("YQ==", b"a"),
            ("YR==", b"a"),
            ("YQ\r\n=\n=\n", b"a"),
            ("YWI=", b"ab"),
            ("YW\nJj", b"abc"),
            ("YWJjZA==\n", b"abcd"),
        ];
        for (text, bytes) in good {
            assert_eq!(decode(text).as_deref(), Ok(bytes), "{text:?}");
        }
        // The cases of encoding/base64's own tests, with its offsets.
        for (text, at) in [
            ("!!!!", 0),
            ("====", 0),
            ("x===", 1),
            ("=AAA", 0),
            ("A=AA", 1),
            ("AA=A", 2),
            ("AA==A", 4),
            ("AAA=AAAA", 4),
            ("AAAAA", 4),
            ("AAAAAA", 4),
            ("A=", 1),
            ("A==", 1),
            ("AA=", 3),
            ("AA==", usize::MAX),
            ("AAA=", usize::MAX),
            ("AAAA", usize::MAX),
            ("AAAAAA=", 7),
            ("YWJjZA=====", 8),
            ("A!\n", 1),
            ("A=\n", 1),
            ("not base64!", 3),
        ] {
            let wanted = if at == usize::MAX { None } else { Some(at) };
            assert_eq!(decode(text).err(), wanted, "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read_again(bytes in proptest::collection::vec(0u8.., 0..64)) {
            proptest::prop_assert_eq!(decode(&STANDARD.encode(&bytes)), Ok(bytes));
        }
    }
}
