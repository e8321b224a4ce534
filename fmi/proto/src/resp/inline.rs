//! Requests of one line, with the quotes of Redis.

fn digit(byte: Option<&u8>) -> Option<u8> {
    let value = char::from(*byte?).to_digit(16)?;
    u8::try_from(value).ok()
}

/// The words of a line; `None` if a quote does not end, or something other than space follows it.
pub(super) fn split(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        rest = rest.trim_ascii_start();
        if rest.is_empty() {
            return Some(words);
        }
        let mut word = Vec::new();
        loop {
            match rest {
                [] => break,
                [b'"', after @ ..] => rest = double(after, &mut word)?,
                [b'\'', after @ ..] => rest = single(after, &mut word)?,
                [byte, ..] if byte.is_ascii_whitespace() || *byte == 0 => break,
                [byte, after @ ..] => {
                    word.push(*byte);
                    rest = after;
                    continue;
                }
            }
            // What was quoted ends the word.
            break;
        }
        words.push(word);
        // A zero ends a word as space does.
        rest = rest.strip_prefix(b"\0").unwrap_or(rest);
    }
}

fn ended(rest: &[u8]) -> Option<&[u8]> {
    rest.first().is_none_or(u8::is_ascii_whitespace).then_some(rest)
}

fn double<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match rest {
            [] => return None,
            [b'"', after @ ..] => return ended(after),
            [b'\\', b'x', after @ ..] if digit(after.first()).is_some() && digit(after.get(1)).is_some() => {
                word.push(digit(after.first())? << 4 | digit(after.get(1))?);
                rest = &after[2..];
            }
            [b'\\', byte, after @ ..] => {
                word.push(match byte {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                });
                rest = after;
            }
            [byte, after @ ..] => {
                word.push(*byte);
                rest = after;
            }
        }
    }
}

fn single<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match rest {
            [] => return None,
            [b'\'', after @ ..] => return ended(after),
            [b'\\', b'\'', after @ ..] => {
                word.push(b'\'');
                rest = after;
            }
            [byte, after @ ..] => {
                word.push(*byte);
                rest = after;
            }
        }
    }
}
