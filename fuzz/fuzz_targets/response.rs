//! A response or request head that is accepted is written so that it reads as the same again, by the same strict rules.
#![no_main]

use libfuzzer_sys::fuzz_target;
use netproxy::Forwarded;
use netproxy::parse::forwarding::Forwarding;
use netproxy::parse::http::{Ask, Body, parse_request, parse_response};

const MAX_FIELDS: usize = 32;
/// Room for what is added.
const MORE_FIELDS: usize = 40;

fuzz_target!(|data: &[u8]| {
    let [how, head @ ..] = data else { return };
    let forwarded = Forwarded::ALL[usize::from(how >> 1) % Forwarded::ALL.len()].1;
    let forwarding = Forwarding { via: (how & 1 == 0).then_some("netproxy-0"), forwarded, client: [192, 0, 2, 1].into() };
    for method in ["GET", "HEAD", "CONNECT"] {
        let Ok(response) = parse_response(head, method, MAX_FIELDS) else { continue };
        let chunked = response.body == Body::Chunked;
        let mut out = Vec::new();
        response.write(true, chunked, false, &forwarding, &mut out);
        let again = parse_response(&out, method, MORE_FIELDS).unwrap_or_else(|error| panic!("{error}: {out:?}"));
        assert_eq!((again.status, again.body), (response.status, response.body), "{out:?}");
    }
    if let Ok(request) = parse_request(head, MAX_FIELDS)
        && let Ask::Resource(resource) = &request.ask
    {
        let mut out = Vec::new();
        request.write(resource, true, &forwarding, &mut out);
        let again = parse_request(&out, MORE_FIELDS).unwrap_or_else(|error| panic!("{error:?}: {out:?}"));
        assert_eq!(
            (&again.method, &again.ask, &again.target, again.body),
            (&request.method, &request.ask, &request.target, request.body),
            "{out:?}"
        );
        assert_eq!(again.upgrade, request.upgrade.clone().filter(|_| again.upgrade.is_some()), "{out:?}");
        assert_eq!(again.went_through("netproxy-0"), request.went_through("netproxy-0") || forwarding.via.is_some(), "{out:?}");
    }
});
