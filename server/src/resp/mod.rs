//! The Redis protocol on byte slices: requests in, replies out. No sockets, no waiting.
//!
//! A request is a flat array of bulk strings or an inline line. The parser iterates and never
//! recurses, borrows the arguments from the read buffer, and allocates for bytes that have arrived,
//! never for a length that was merely announced. Replies are written in RESP2 or RESP3, whichever
//! the client chose with `HELLO`.

mod args;
mod inline;
mod limits;
mod reply;
mod request;

pub use args::{Args, Span};
pub use limits::Limits;
pub(crate) use reply::push_decimal;
pub use reply::{Protocol, Reply};
pub use request::{Parsed, Parser, ProtocolError};
pub(crate) use request::{parse_integer, parse_unsigned};
