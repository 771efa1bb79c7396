//! Requests of Redis' protocol: where the bytes are cut changes nothing, and others agree.
//!
//! An input is a few choices (the limits, the cuts, a stretch that makes lines longer than their
//! bound), then the stream. The stream is parsed as one piece and in pieces; both must find the same
//! requests and end alike. Arrays that are accepted must be read alike by another parser.

use std::fmt;

use redis_protocol::resp2::decode::decode;
use redis_protocol::resp2::types::OwnedFrame;
use strandline_server::resp::{Limits, Parsed, Parser, ProtocolError};

use crate::Choices;

/// The bounds that a stretched input meets, so that inputs can stay short.
const LIMITS_SMALL: Limits =
    Limits { args_max: 8, bulk_len_max: 200, request_len_max: 400, before_auth: false };

/// A request's arguments.
type Request = Vec<Vec<u8>>;

/// What a stream amounts to: its requests, how many bytes were taken, and what ended it.
#[derive(PartialEq, Eq)]
struct Found {
    requests: Vec<Request>,
    taken: usize,
    error: Option<ProtocolError>,
}

impl fmt::Display for Found {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Found { requests, taken, error } = self;
        write!(out, "{} requests in {taken} bytes and {error:?}", requests.len())
    }
}

/// See the module's documentation.
pub(crate) fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    let limits = choices.pick(&[Limits::AFTER_AUTH, Limits::BEFORE_AUTH, LIMITS_SMALL]);
    let mut cuts = [0; 4].map(|_| usize::from(choices.any::<u8>()));
    let stretch = if choices.once_in(8) { choices.below(70_000) } else { 0 };
    let at = choices.any::<u8>();
    let mut stream = choices.rest().to_vec();
    let at = usize::from(at).min(stream.len());
    stream.splice(at..at, std::iter::repeat_n(b'7', stretch));

    let whole = parse(&stream, &[], &limits);
    // Cuts stand near one of the ends: that is where lengths and line ends are.
    let end = stream.len();
    cuts[2..].iter_mut().for_each(|cut| *cut = end.saturating_sub(*cut));
    cuts.sort_unstable();
    let every: Vec<_> = (0..end).step_by(1 + end / 256).collect();
    for cuts in [&cuts[..], &every] {
        let pieces = parse(&stream, cuts, &limits);
        assert!(pieces == whole, "{} where {} belongs, cut at {cuts:?}", pieces, whole);
    }
    whole.requests.iter().for_each(|request| check_with_peer(request, &limits));
}

fn parse(bytes: &[u8], cuts: &[usize], limits: &Limits) -> Found {
    let mut parser = Parser::new();
    let mut found = Found { requests: Vec::new(), taken: 0, error: None };
    for end in cuts.iter().map(|cut| (*cut).min(bytes.len())).chain([bytes.len()]) {
        loop {
            // All that arrived of the current request, as the parser wants it.
            let buffer = &bytes[found.taken..end.max(found.taken)];
            let taken = match parser.parse(buffer, limits) {
                Ok(Parsed::Incomplete) => break,
                Ok(Parsed::Nothing(taken)) => taken,
                Ok(Parsed::Request(taken)) => {
                    let args = parser.args(buffer);
                    assert!(!args.is_empty() && taken <= buffer.len(), "a request has a name");
                    found.requests.push(args.from(0).map(<[u8]>::to_vec).collect());
                    taken
                }
                Err(error) => {
                    assert!(!error.to_string().is_empty(), "an error has words");
                    found.error = Some(error);
                    return found;
                }
            };
            assert!(taken > 0, "what was taken moves on");
            found.taken += taken;
            parser.reset();
        }
    }
    found
}

/// Written as an array, a request is read back by both parsers.
fn check_with_peer(request: &Request, limits: &Limits) {
    let mut bytes = format!("*{}\r\n", request.len()).into_bytes();
    for argument in request {
        bytes.extend(format!("${}\r\n", argument.len()).into_bytes());
        bytes.extend_from_slice(argument);
        bytes.extend_from_slice(b"\r\n");
    }
    let frames = request.iter().map(|argument| OwnedFrame::BulkString(argument.clone()));
    let expected = Some((OwnedFrame::Array(frames.collect()), bytes.len()));
    assert_eq!(decode(&bytes).expect("an array of bulk strings"), expected);
    let is_within = request.len() <= limits.args_max
        && bytes.len() <= limits.request_len_max
        && request.iter().all(|argument| argument.len() <= limits.bulk_len_max);
    if is_within {
        let again = parse(&bytes, &[], limits);
        assert_eq!((&again.requests[..], again.taken), (&[request.clone()][..], bytes.len()));
    }
}
