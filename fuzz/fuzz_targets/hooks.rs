//! Hooks on requests inside TLS: whatever a client sends and whatever a hook says, matching ends, and what two servers could read in two ways does not match.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use policy_format::path::has_one_reading;
use policy_format::{
    Access, Blob, BlobBuilder, Decision, Hook, HookBody, Host, Inside, JsonValue, Layer, Meta, Pattern, ProfileId, Profiles, Protocol,
    Request, RuleInput, Settings, Source, decide,
};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    paths: Vec<&'a str>,
    query: Vec<(&'a str, Vec<&'a str>)>,
    headers: Vec<(&'a str, Vec<&'a str>)>,
    pointers: Vec<(&'a str, Vec<Value<'a>>)>,
    path: &'a str,
    asked: Option<&'a str>,
    sent: Vec<(&'a str, &'a [u8])>,
    body: Option<&'a [u8]>,
}

#[derive(Arbitrary, Debug)]
enum Value<'a> {
    Text(&'a str),
    Bool(bool),
    Number(u64),
}

fuzz_target!(|input: Input<'_>| {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let fields = |fields: &[(&str, Vec<&str>)]| fields.iter().map(|(name, values)| ((*name).to_owned(), texts(values))).collect::<Vec<_>>();
    let source = Source { layer: Layer::User, label: "config.toml".into() };
    let mut builder = BlobBuilder::new(Meta::default());
    builder.rule(RuleInput::new(Pattern::parse("a.test").unwrap(), Access::Allow, source.clone(), 1));
    builder.hook(Hook {
        name: "h".into(),
        host: "a.test".into(),
        methods: vec!["POST".into()],
        path_prefixes: texts(&input.paths),
        query: fields(&input.query),
        headers: fields(&input.headers),
        strip_request_headers: vec![],
        inject_request_headers: vec![],
        strip_response_headers: vec![],
        source,
        line: 1,
        profiles: Profiles::default(),
    });
    if !input.pointers.is_empty() {
        let value = |value: &Value<'_>| match value {
            Value::Text(text) => JsonValue::Text((*text).to_owned()),
            Value::Bool(value) => JsonValue::Bool(*value),
            Value::Number(value) => JsonValue::Number(*value),
        };
        let json = input.pointers.iter().map(|(at, values)| ((*at).to_owned(), values.iter().map(value).collect())).collect();
        let bodies = vec![HookBody { hook: "h".into(), json, max_bytes: 1 << 16 }];
        builder.settings(ProfileId::default(), Settings { hook_bodies: bodies, ..Settings::default() });
    }
    // What no reader could prepare, such as a pointer that is none, is not written.
    let Ok(bytes) = builder.build() else { return };
    let blob = Blob::open(bytes).expect("what is written is read");
    let mut sent = input.sent.clone();
    sent.push(("content-type", b"application/json"));
    let host = Host::parse("a.test").unwrap();
    let request = Request {
        protocol: Protocol::Https,
        method: Some("POST"),
        path: Some(input.path),
        inside: Some(Inside { query: input.asked, headers: &sent, body: input.body }),
        ..Request::connect(&host, 443)
    };
    let matched = blob.matching_hook(&request).is_some();
    assert!(!matched || has_one_reading(input.path));
    assert_eq!(matches!(decide(&blob, &request), Decision::Allow(_)), matched);
    let without = Request { inside: request.inside.map(|inside| Inside { body: None, ..inside }), ..request };
    if matched != blob.matching_hook(&without).is_some() {
        assert_eq!(blob.body_wanted(&without), Some(1 << 16));
    }
});
