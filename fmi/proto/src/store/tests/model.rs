//! The commands of strings, lists and ends against a model: maps of plain values, and a clock in milliseconds.
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "what is drawn is small")]

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// A value, and when it ends.
type Model = BTreeMap<&'static str, (Value, Option<u64>)>;

#[derive(Clone, Debug)]
enum Value {
    String(String),
    List(Vec<String>),
}

#[derive(Clone, Debug)]
enum Step {
    /// A command with its words, the first of which is a key.
    Do(&'static str, &'static str, Vec<String>),
    Pass(u64),
}

const WRONG: &str = "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n";

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

fn array(items: &[String]) -> String {
    items.iter().fold(format!("*{}\r\n", items.len()), |all, item| all + &bulk(item))
}

fn number(number: impl std::fmt::Display) -> String {
    format!(":{number}\r\n")
}

/// What is between two places of a list of this length.
fn between(words: &[String], length: usize) -> std::ops::Range<usize> {
    let place = |at: usize| words[at].parse::<i64>().expect("drawn") as i128;
    let length = length as i128;
    let from_front = |at: i128| if at < 0 { at + length } else { at };
    let (start, end) = (from_front(place(0)).max(0), from_front(place(1)).min(length - 1));
    if start > end { 0..0 } else { start as usize..end as usize + 1 }
}

/// The same of a string, where an end before its front is its front.
fn part(words: &[String], length: usize) -> std::ops::Range<usize> {
    let [start, end] = [0, 1].map(|at| words[at].parse::<i64>().expect("drawn"));
    if start < 0 && end < 0 && start > end {
        return 0..0;
    }
    let last = if end < 0 { (i128::from(end) + length as i128).max(0) } else { end.into() };
    between(&[start.to_string(), last.min(1 << 40).to_string()], length)
}

/// What Redis answers, and what becomes of the model.
fn expected(model: &mut Model, now: u64, command: &str, key: &'static str, words: &[String]) -> String {
    model.retain(|_, (_, end)| end.is_none_or(|end| now < end));
    let there = model.get(key).cloned();
    match command {
        "SET" => set(model, now, key, words),
        "DEL" => number(u8::from(model.remove(key).is_some())),
        "EXISTS" => number(u8::from(there.is_some())),
        "TYPE" => match there {
            None => "+none\r\n".into(),
            Some((Value::String(_), _)) => "+string\r\n".into(),
            Some((Value::List(_), _)) => "+list\r\n".into(),
        },
        "PTTL" => number(there.map_or(-2, |(_, end)| end.map_or(-1, |end| (end - now) as i64))),
        "TTL" => number(there.map_or(-2, |(_, end)| end.map_or(-1, |end| ((end - now + 500) / 1000) as i64))),
        "PERSIST" => match model.get_mut(key) {
            Some((_, end)) => number(u8::from(end.take().is_some())),
            None => number(0),
        },
        "PEXPIRE" => {
            let millis: i64 = words[0].parse().expect("drawn");
            match model.get_mut(key) {
                None => number(0),
                Some(_) if millis <= 0 => {
                    model.remove(key);
                    number(1)
                }
                Some((_, end)) => {
                    *end = Some(now + millis as u64);
                    number(1)
                }
            }
        }
        "GET" | "STRLEN" | "GETRANGE" | "INCRBY" | "GETDEL" => match there {
            Some((Value::List(_), _)) => WRONG.into(),
            Some((Value::String(text), end)) => string(model, command, key, words, Some((text, end))),
            None => string(model, command, key, words, None),
        },
        _ => match there {
            Some((Value::String(_), _)) => WRONG.into(),
            Some((Value::List(items), end)) => list(model, command, key, words, Some(items), end),
            None => list(model, command, key, words, None, None),
        },
    }
}

fn set(model: &mut Model, now: u64, key: &'static str, words: &[String]) -> String {
    let has = |option: &str| words[1..].iter().any(|word| word == option);
    let there = model.get(key).cloned();
    let old = match (&there, has("GET")) {
        (Some((Value::List(_), _)), true) => return WRONG.into(),
        (Some((Value::String(text), _)), true) => Some(bulk(text)),
        (None, true) => Some("$-1\r\n".into()),
        (_, false) => None,
    };
    if has("NX") && there.is_some() || has("XX") && there.is_none() {
        return old.unwrap_or_else(|| "$-1\r\n".into());
    }
    let lives = words.iter().position(|word| word == "PX").map(|at| words[at + 1].parse::<u64>().expect("drawn"));
    let kept = there.and_then(|(_, end)| end).filter(|_| has("KEEPTTL"));
    model.insert(key, (Value::String(words[0].clone()), lives.map(|lives| now + lives).or(kept)));
    old.unwrap_or_else(|| "+OK\r\n".into())
}

fn string(
    model: &mut Model,
    command: &str,
    key: &'static str,
    words: &[String],
    there: Option<(String, Option<u64>)>,
) -> String {
    match (command, there) {
        ("GET" | "GETDEL", None) => "$-1\r\n".into(),
        ("GET", Some((text, _))) => bulk(&text),
        ("GETDEL", Some((text, _))) => {
            model.remove(key);
            bulk(&text)
        }
        ("STRLEN", there) => number(there.map_or(0, |(text, _)| text.len())),
        ("GETRANGE", there) => {
            let text = there.map(|(text, _)| text).unwrap_or_default();
            bulk(&text[part(words, text.len())])
        }
        (_, there) => {
            let (text, end) = there.unwrap_or_else(|| ("0".into(), None));
            let (Ok(before), add) = (text.parse::<i64>(), words[0].parse::<i64>().expect("drawn")) else {
                return "-ERR value is not an integer or out of range\r\n".into();
            };
            let Some(sum) = before.checked_add(add) else {
                return "-ERR increment or decrement would overflow\r\n".into();
            };
            model.insert(key, (Value::String(sum.to_string()), end));
            number(sum)
        }
    }
}

fn list(
    model: &mut Model,
    command: &str,
    key: &'static str,
    words: &[String],
    there: Option<Vec<String>>,
    end: Option<u64>,
) -> String {
    let is_there = there.is_some();
    let mut list = there.unwrap_or_default();
    let answer = match command {
        "RPUSH" => {
            list.extend_from_slice(words);
            number(list.len())
        }
        "LPUSH" => {
            words.iter().for_each(|word| list.insert(0, word.clone()));
            number(list.len())
        }
        "LLEN" => number(list.len()),
        "LRANGE" => array(&list[between(words, list.len())]),
        "LTRIM" => {
            list = list[between(words, list.len())].to_vec();
            "+OK\r\n".into()
        }
        "LPOP" | "RPOP" => match words.first().map(|count| count.parse::<usize>().expect("drawn")) {
            Some(_) if !is_there => "*-1\r\n".into(),
            None if !is_there => "$-1\r\n".into(),
            count => {
                let take =
                    |list: &mut Vec<String>| if command == "LPOP" { list.remove(0) } else { list.pop().expect("one") };
                let popped: Vec<_> = (0..count.unwrap_or(1).min(list.len())).map(|_| take(&mut list)).collect();
                if count.is_some() { array(&popped) } else { bulk(&popped[0]) }
            }
        },
        _ => {
            let (count, mut removed) = (words[0].parse::<i64>().expect("drawn"), 0);
            let is_backward = count < 0;
            if is_backward {
                list.reverse();
            }
            while let Some(at) =
                list.iter().position(|it| *it == words[1]).filter(|_| count == 0 || removed < count.abs())
            {
                list.remove(at);
                removed += 1;
            }
            if is_backward {
                list.reverse();
            }
            number(removed)
        }
    };
    if list.is_empty() {
        model.remove(key);
    } else {
        model.insert(key, (Value::List(list), end));
    }
    answer
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[a-c]{0,3}", 2 => "-?[1-9]", 1 => Just(i64::MAX.to_string()), 1 => "x{5000}"]
}

fn step() -> impl Strategy<Value = Step> {
    let place = || prop_oneof![4 => -4i64..5, 1 => Just(i64::MAX), 1 => Just(i64::MIN)].prop_map(|it| it.to_string());
    let options = prop_oneof![
        Just(vec![]),
        Just(vec!["NX"]),
        Just(vec!["XX"]),
        Just(vec!["GET"]),
        Just(vec!["KEEPTTL"]),
        Just(vec!["GET", "PX", "100"]),
        Just(vec!["PX", "150"]),
        Just(vec!["XX", "KEEPTTL", "GET"]),
        Just(vec!["NX", "PX", "3"]),
    ];
    let set = (text(), options).prop_map(|(text, options)| {
        let options = options.into_iter().map(str::to_owned);
        ("SET", std::iter::once(text).chain(options).collect())
    });
    let alone = proptest::sample::select(vec![
        "DEL", "EXISTS", "TYPE", "PTTL", "TTL", "PERSIST", "GET", "STRLEN", "GETDEL", "LLEN",
    ]);
    let ranged = proptest::sample::select(vec!["GETRANGE", "LRANGE", "LTRIM"]);
    let command = prop_oneof![
        4 => set,
        6 => alone.prop_map(|name| (name, vec![])),
        2 => (ranged, place(), place()).prop_map(|(name, start, end)| (name, vec![start, end])),
        4 => (prop_oneof![Just("RPUSH"), Just("LPUSH")], vec(text(), 1..4)),
        2 => (prop_oneof![Just("LPOP"), Just("RPOP")], vec((0usize..4).prop_map(|it| it.to_string()), 0..2)),
        1 => (-2i64..3, text()).prop_map(|(count, text)| ("LREM", vec![count.to_string(), text])),
        1 => place().prop_map(|add| ("INCRBY", vec![add])),
        1 => (-5i64..200).prop_map(|millis| ("PEXPIRE", vec![millis.to_string()])),
    ];
    let keyed = (proptest::sample::select(vec!["a", "b", "c"]), command);
    prop_oneof![10 => keyed.prop_map(|(key, (name, words))| Step::Do(name, key, words)), 1 => (0u64..120).prop_map(Step::Pass)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn commands_do_what_the_model_does(steps in vec(step(), 1..120), is_punctual in any::<bool>()) {
        let (mut desk, mut model, mut now) = (Desk::open(1 << 24), Model::new(), 0);
        for step in steps {
            match step {
                Step::Pass(millis) => {
                    now += millis;
                    // What is over is gone whether or not somebody has cleared it away.
                    if is_punctual {
                        desk.after(Duration::from_millis(millis));
                    } else {
                        desk.now += Duration::from_millis(millis);
                    }
                }
                Step::Do(command, key, words) => {
                    let expected = expected(&mut model, now, command, key, &words);
                    let all: Vec<&[u8]> =
                        [command, key].into_iter().chain(words.iter().map(String::as_str)).map(str::as_bytes).collect();
                    desk.feed(A, &request(&all));
                    prop_assert_eq!(desk.said(A), expected, "{} {} {:?}", command, key, words);
                }
            }
        }
        desk.ask(A, "DEL a b c");
        for client in [A, B, C] {
            desk.input(client, Input::Closed);
        }
        prop_assert_eq!((desk.server.used(), desk.server.keyspace.expiring()), (0, 0));
    }
}
