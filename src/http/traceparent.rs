//! The headers `traceparent` and `tracestate` of W3C Trace Context.

use std::str::FromStr as _;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

/// Header with the ids of the trace and of the caller's span.
pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Header with what other tracing systems pass on.
pub(super) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Length of the fields that every version has: `00-<32 digits>-<16 digits>-00`.
const LENGTH: usize = 55;
/// Maximum length of `tracestate`, which the specification requires to propagate; a longer one is ignored.
const MAX_TRACESTATE: usize = 512;

/// Returns the span of the caller that `headers` name. `None` if there is no `traceparent`, more than one, or an
/// invalid one. An invalid `tracestate` is ignored.
///
/// Source: W3C Trace Context, sections 3.2 and 3.3.
pub(super) fn caller(headers: &HeaderMap) -> Option<SpanContext> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let (trace, span, flags) = parse(value.to_str().ok()?)?;
    let state = tracestate(headers).unwrap_or_default();
    Some(SpanContext::new(trace, span, flags, true, state))
}

/// Returns the header for `context`.
pub(super) fn header(context: &SpanContext) -> Option<HeaderValue> {
    let (trace, span) = (context.trace_id(), context.span_id());
    let sampled = u8::from(context.is_sampled());
    HeaderValue::from_str(&format!("00-{trace}-{span}-{sampled:02x}")).ok()
}

/// Parses a `traceparent` of version 00. Of a later version, parses the fields that version 00 has.
fn parse(value: &str) -> Option<(TraceId, SpanId, TraceFlags)> {
    let fields = value.get(..LENGTH)?;
    let rest = &value[LENGTH..];
    let mut fields = fields.split('-');
    let mut field = |length: usize| {
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let field = fields.next()?;
        (field.len() == length && field.bytes().all(digit)).then_some(field)
    };
    let (version, trace, span, flags) = (field(2)?, field(32)?, field(16)?, field(2)?);
    let complete = match version {
        "00" => rest.is_empty(),
        "ff" => false,
        _ => rest.is_empty() || rest.starts_with('-'),
    };
    let trace = TraceId::from_hex(trace).ok()?;
    let span = SpanId::from_hex(span).ok()?;
    let valid = complete && trace != TraceId::INVALID && span != SpanId::INVALID;
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?);
    // Later versions may define other flags, which this server must not pass on.
    valid.then_some((trace, span, flags & TraceFlags::SAMPLED))
}

/// Returns the state of the tracing systems that took part before. Several headers are one list. `None` if it is
/// invalid or too long.
fn tracestate(headers: &HeaderMap) -> Option<TraceState> {
    let mut list = String::new();
    for value in headers.get_all(TRACESTATE) {
        if !list.is_empty() {
            list.push(',');
        }
        list.push_str(value.to_str().ok()?);
        if list.len() > MAX_TRACESTATE {
            return None;
        }
    }
    TraceState::from_str(&list).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn headers(list: &[(HeaderName, &str)]) -> HeaderMap {
        let pair = |(name, value): &(HeaderName, &str)| (name.clone(), value.parse().unwrap());
        list.iter().map(pair).collect()
    }

    #[test]
    fn a_valid_header_names_the_caller_and_is_written_alike() {
        for (suffix, sampled) in [("-01", true), ("-00", false), ("-03", true), ("-fe", false)] {
            let value = format!("00-{TRACE}-{SPAN}{suffix}");
            let caller = caller(&headers(&[(TRACEPARENT, &value)])).unwrap();
            assert_eq!(caller.trace_id().to_string(), TRACE);
            assert_eq!(caller.span_id().to_string(), SPAN);
            assert_eq!((caller.is_sampled(), caller.is_remote()), (sampled, true));
            let flags = if sampled { "01" } else { "00" };
            let written = header(&caller).unwrap();
            assert_eq!(written, format!("00-{TRACE}-{SPAN}-{flags}").as_str());
        }
        for later in [
            format!("01-{TRACE}-{SPAN}-01"),
            format!("cc-{TRACE}-{SPAN}-01-more"),
        ] {
            assert!(parse(&later).is_some(), "{later}");
        }
    }

    #[test]
    fn an_invalid_header_is_ignored() {
        let zeros = "0".repeat(32);
        for value in [
            String::new(),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-01-"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("cc-{TRACE}-{SPAN}-01more"),
            format!("0x-{TRACE}-{SPAN}-01"),
            format!("00-{zeros}-{SPAN}-01"),
            format!("00-{TRACE}-{}-01", &zeros[..16]),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{}-{SPAN}-01", TRACE.replace('4', "+")),
            format!("00_{TRACE}_{SPAN}_01"),
            format!("00-{SPAN}-{TRACE}-01"),
            "é".repeat(40),
        ] {
            assert_eq!(parse(&value), None, "{value}");
        }
        let value = format!("00-{TRACE}-{SPAN}-01");
        let twice = [(TRACEPARENT, value.as_str()), (TRACEPARENT, value.as_str())];
        assert!(caller(&headers(&twice)).is_none());
    }

    #[test]
    fn the_state_of_other_systems_is_one_bounded_list() {
        let value = format!("00-{TRACE}-{SPAN}-01");
        let state = |values: &[&str]| {
            let states = values.iter().map(|value| (TRACESTATE, *value));
            let all: Vec<_> = [(TRACEPARENT, value.as_str())]
                .into_iter()
                .chain(states)
                .collect();
            caller(&headers(&all)).unwrap().trace_state().header()
        };
        assert_eq!(state(&[]), "");
        assert_eq!(state(&["a=1", "b=2"]), "a=1,b=2");
        assert_eq!(state(&["not a list"]), "");
        assert_eq!(state(&[&format!("a={}", "x".repeat(600))]), "");
    }
}
