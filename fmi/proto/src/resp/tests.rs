//! Goal: whatever pieces a stream comes in, the same requests are read, and no stream makes a reader hold more than it may.

use bytes::BufMut;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const FREE: Limits = Limits { is_known: true, held_bytes_max: usize::MAX };

/// Feeds a reader in pieces of these lengths, over and over; the requests, and the error at the end if there is one.
fn read(stream: &[u8], pieces: &[usize], limits: Limits) -> (Vec<Vec<Vec<u8>>>, Option<ProtocolError>) {
    let (mut reader, mut spare, mut requests) = (Reader::default(), Vec::new(), Vec::new());
    let mut pieces = pieces.iter().copied().cycle();
    let mut rest = stream;
    while !rest.is_empty() {
        let mut room = reader.room(&mut spare);
        let count = pieces.next().unwrap_or(1).min(rest.len()).min(room.remaining_mut()).min(room.chunk_mut().len());
        assert!(count > 0, "there is room");
        room.put_slice(&rest[..count]);
        rest = &rest[count..];
        loop {
            match reader.next(limits) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => return (requests, Some(error)),
            }
            if reader.is_oversized() {
                requests.push(vec![b"oversized".to_vec(), reader.len().to_string().into_bytes()]);
            } else {
                requests.push((0..reader.len()).map(|index| reader.argument(index).to_vec()).collect());
            }
            reader.finish();
        }
        reader.tidy(&mut spare);
        let ahead = LINE_BYTES_MAX + 2 * READ_BYTES;
        assert!(reader.held() <= limits.held_bytes_max.max(SMALL_REQUEST_BYTES).saturating_add(ahead));
    }
    (requests, None)
}

fn emit(request: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", request.len()).into_bytes();
    for argument in request {
        bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        bytes.extend_from_slice(argument);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

fn argument() -> impl Strategy<Value = Vec<u8>> {
    let filled = |length: usize| (0..length).map(|at| u8::try_from(at % 251).expect("small")).collect();
    prop_oneof![
        8 => vec(any::<u8>(), 0..20),
        1 => (BODY_BYTES_MIN - 3..BODY_BYTES_MIN + 3).prop_map(filled),
        1 => (FIRST_BYTES - 3..FIRST_BYTES + READ_BYTES).prop_map(filled),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn requests_survive_any_pieces(
        requests in vec(vec(argument(), 1..5), 1..6),
        pieces in vec(prop_oneof![1usize..10, 1usize..200_000], 1..10),
    ) {
        let stream: Vec<u8> = requests.iter().flat_map(|request| emit(request)).collect();
        prop_assert_eq!(read(&stream, &pieces, FREE), (requests, None));
    }

    #[test]
    fn what_there_is_no_memory_for_is_read_past(
        requests in vec(vec(argument(), 1..5), 1..6),
        pieces in vec(1usize..100_000, 1..10),
    ) {
        let limits = Limits { is_known: true, held_bytes_max: 0 };
        let stream: Vec<u8> = requests.iter().flat_map(|request| emit(request)).collect();
        let (read, error) = read(&stream, &pieces, limits);
        prop_assert_eq!((read.len(), error), (requests.len(), None));
        for (read, request) in read.iter().zip(&requests) {
            let is_large = request.iter().map(Vec::len).sum::<usize>() > SMALL_REQUEST_BYTES;
            let void = vec![b"oversized".to_vec(), request.len().to_string().into_bytes()];
            let is_small = emit(request).len() + 4 * size_of::<Argument>() <= SMALL_REQUEST_BYTES;
            let is_right = if is_large { *read == void } else { !is_small || read == request };
            prop_assert!(is_right);
        }
    }

    #[test]
    fn any_bytes_are_read_alike_in_any_pieces(
        words in vec(prop_oneof![
            Just(b"*".to_vec()), Just(b"$".to_vec()), Just(b"\r\n".to_vec()), Just(b"\n".to_vec()), Just(b"-1".to_vec()),
            Just(b"1".to_vec()), Just(b"3".to_vec()), Just(b"0".to_vec()), Just(b"\"".to_vec()), Just(b"'".to_vec()),
            Just(b"\\x41".to_vec()), Just(b" ".to_vec()), Just(b"GET".to_vec()), vec(any::<u8>(), 1..4),
        ], 0..60),
        pieces in vec(1usize..20, 1..10),
        is_known in any::<bool>(),
    ) {
        let limits = Limits { is_known, ..FREE };
        let stream = words.concat();
        prop_assert_eq!(read(&stream, &pieces, limits), read(&stream, &[usize::MAX], limits));
    }
}

#[test]
fn one_line_is_a_request_with_quotes() {
    for (line, words) in [
        ("SET a b\r\n", vec!["SET", "a", "b"]),
        ("  GET   a \n", vec!["GET", "a"]),
        ("SET a \"b c\\n\\x41\\\"\"\n", vec!["SET", "a", "b c\nA\""]),
        ("SET a 'b \\' \\n'\n", vec!["SET", "a", "b ' \\n"]),
        ("a\"b c\"\n", vec!["ab c"]),
    ] {
        let words: Vec<_> = words.into_iter().map(|word| word.as_bytes().to_vec()).collect();
        assert_eq!(read(line.as_bytes(), &[3], FREE), (vec![words], None), "{line}");
    }
    for line in ["\"a\n", "'a\n", "\"a\"b\n"] {
        assert_eq!(read(line.as_bytes(), &[3], FREE), (vec![], Some(ProtocolError::Quotes)), "{line}");
    }
    assert_eq!(read(b"\r\n\n  \n*0\r\n*-1\r\n", &[1], FREE), (vec![], None));
}

#[test]
fn what_is_no_request_ends_it_at_the_bound() {
    let long = |head: &str| head.bytes().chain(std::iter::repeat_n(b'1', LINE_BYTES_MAX + 1)).collect::<Vec<_>>();
    let stranger = Limits { is_known: false, ..FREE };
    for (stream, limits, error) in [
        (b"*x\r\n".to_vec(), FREE, ProtocolError::Count),
        (b"*1048576\r\n".to_vec(), FREE, ProtocolError::NoArgument(b'!')),
        (b"*1048577\r\n".to_vec(), FREE, ProtocolError::Count),
        (b"*10\r\n".to_vec(), stranger, ProtocolError::NoArgument(b'!')),
        (b"*11\r\n".to_vec(), stranger, ProtocolError::StrangersCount),
        (b"*1\r\n!".to_vec(), FREE, ProtocolError::NoArgument(b'!')),
        (b"*1\r\n$-1\r\n".to_vec(), FREE, ProtocolError::Length),
        (b"*1\r\n$536870913\r\n".to_vec(), FREE, ProtocolError::Length),
        (b"*1\r\n$16385\r\n".to_vec(), stranger, ProtocolError::StrangersLength),
        (long("*"), FREE, ProtocolError::LongCount),
        (long("*1\r\n$"), FREE, ProtocolError::LongLength),
        (long("a"), FREE, ProtocolError::LongLine),
    ] {
        let stream = [stream, b"!".to_vec()].concat();
        assert_eq!(read(&stream, &[1000], limits).1, Some(error), "{:?}", &stream[..stream.len().min(20)]);
    }
}

/// Nothing is set aside for what was only announced, and an idle reader keeps nothing.
#[test]
fn an_announcement_costs_nothing() {
    let (mut reader, mut spare) = (Reader::default(), Vec::new());
    let mut put = |reader: &mut Reader, bytes: &[u8]| {
        reader.room(&mut spare).put_slice(bytes);
        let is_whole = reader.next(FREE);
        reader.tidy(&mut spare);
        is_whole
    };
    assert_eq!(put(&mut reader, b"*2\r\n$3\r\nSET\r\n$536870912\r\nabc"), Ok(false));
    assert!(reader.held() < 200 && matches!(&reader.state, State::Body { body, .. } if body.capacity() <= FIRST_BYTES));
    let mut reader = Reader::default();
    assert_eq!(put(&mut reader, b"*1\r\n$4\r\nPING\r\n"), Ok(true));
    reader.finish();
    reader.tidy(&mut Vec::new());
    assert_eq!((reader.held(), reader.raw.capacity(), reader.is_within()), (0, 0, false));
}

#[test]
fn numbers_are_plain() {
    for (text, number) in [
        ("0", Some(0)),
        ("-1", Some(-1)),
        ("9223372036854775807", Some(i64::MAX)),
        ("-9223372036854775808", Some(i64::MIN)),
        ("9223372036854775808", None),
        ("-0", None),
        ("01", None),
        ("+1", None),
        ("", None),
        ("-", None),
        ("1 ", None),
        ("1.0", None),
    ] {
        assert_eq!(integer(text.as_bytes()), number, "{text}");
    }
}
