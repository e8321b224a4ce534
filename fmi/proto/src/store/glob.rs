//! Patterns of keys, as Redis has them: `*`, `?`, `[a-c]`, `[^a]`, and `\` before what stands for itself.

/// Whether a text fits a pattern. It takes at most their product in steps, whatever they are.
pub(super) fn fits(pattern: &[u8], text: &[u8]) -> bool {
    let (mut pattern, mut text) = (pattern, text);
    // Behind the last star, and what of the text it has not swallowed yet.
    let mut star: Option<(&[u8], &[u8])> = None;
    loop {
        if let [b'*', after @ ..] = pattern {
            star = Some((after, text));
            pattern = after;
            continue;
        }
        let rest = match text {
            [] if pattern.is_empty() => return true,
            // No swallowing makes the text longer.
            [] => return false,
            [byte, text @ ..] => one(pattern, *byte).map(|pattern| (pattern, text)),
        };
        match (rest, &mut star) {
            (Some(rest), _) => (pattern, text) = rest,
            (None, Some((after, swallowed))) => {
                *swallowed = &swallowed[1..];
                (pattern, text) = (*after, *swallowed);
            }
            (None, None) => return false,
        }
    }
}

/// What is left of a pattern that does not begin with a star, if its first part fits a byte.
fn one(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    match pattern {
        [] => None,
        [b'?', rest @ ..] => Some(rest),
        [b'[', rest @ ..] => class(rest, byte),
        [b'\\', escaped, rest @ ..] => (*escaped == byte).then_some(rest),
        [plain, rest @ ..] => (*plain == byte).then_some(rest),
    }
}

/// What is left behind a class, if a byte is in it. One that does not end ends with the pattern.
fn class(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    let (is_not, mut rest) = match pattern {
        [b'^', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let mut is_in = false;
    loop {
        rest = match rest {
            [] => break,
            [b']', rest @ ..] => {
                return (is_in != is_not).then_some(rest);
            }
            [b'\\', escaped, rest @ ..] => {
                is_in |= *escaped == byte;
                rest
            }
            [low, b'-', high, rest @ ..] => {
                is_in |= (low.min(high)..=low.max(high)).contains(&&byte);
                rest
            }
            [plain, rest @ ..] => {
                is_in |= *plain == byte;
                rest
            }
        };
    }
    (is_in != is_not).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_as_with_redis() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("*b", "abc", false),
            ("a*b*c", "a-b-b-c", true),
            ("a?c", "abc", true),
            ("a?", "a", false),
            ("h[ae]llo", "hello", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("h[c-a]llo", "hbllo", true),
            (r"h\*llo", "h*llo", true),
            (r"h\*llo", "hello", false),
            (r"[\]]", "]", true),
            ("[a", "a", true),
            ("**", "x", true),
            ("*[", "a[", false),
        ] {
            assert_eq!(fits(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    /// The plain recursion takes longer than anybody waits.
    #[test]
    fn many_stars_cost_little() {
        let (pattern, text) = ("a*".repeat(1000) + "b", "a".repeat(10_000));
        assert!(!fits(pattern.as_bytes(), text.as_bytes()));
    }
}
