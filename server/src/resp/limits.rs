//! How much a client may ask of the parser, before and after it has said who it is.
//!
//! A client that has not authenticated gets Redis' small limits, so that a stranger cannot make the
//! server hold more than about a mebibyte.

use strandline_engine::VALUE_LEN_MAX;

/// Bounds on one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most arguments, the name included.
    pub args_max: usize,
    /// The longest argument, in bytes.
    pub bulk_len_max: usize,
    /// The longest request, in bytes.
    pub request_len_max: usize,
    /// Whether these are the limits before authentication, which have error texts of their own.
    pub before_auth: bool,
}

/// The longest inline line, and the longest header of an array or bulk string, in bytes: Redis'
/// number.
pub(super) const LINE_LEN_MAX: usize = 64 << 10;

impl Limits {
    /// For a client that has not authenticated where a password is required.
    pub const BEFORE_AUTH: Limits = Limits {
        args_max: 10,
        bulk_len_max: 16 << 10,
        request_len_max: 1 << 20,
        before_auth: true,
    };

    /// For everyone else. Arguments are bounded by the largest value that the store takes; the whole
    /// request by somewhat more than the largest entry of the log, so that a request which is only
    /// slightly too large gets a clear answer instead of a closed connection.
    pub const AFTER_AUTH: Limits = Limits {
        args_max: 1 << 20,
        bulk_len_max: VALUE_LEN_MAX,
        request_len_max: 96 << 20,
        before_auth: false,
    };
}
