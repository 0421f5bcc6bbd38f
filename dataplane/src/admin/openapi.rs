//! The OpenAPI document, made of the table of routes and of the models. It is a file that the program has in it; a test says when it is not what they say.

use super::access::Scope;
use super::model::*;
use super::reply::{JSON, PROBLEM};
use super::routes::{Does, Kind, Parameter, ROUTES, Route};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

/// Schemas as they are collected.
struct Schemas {
    said: SchemaGenerator,
    told: SchemaGenerator,
}

impl Schemas {
    fn new() -> Self {
        let settings = || SchemaSettings::draft2020_12().with(|settings| settings.definitions_path = "/components/schemas".into());
        Self { said: settings().for_serialize().into_generator(), told: settings().for_deserialize().into_generator() }
    }

    fn said<T: JsonSchema>(&mut self) -> Value {
        self.said.subschema_for::<T>().to_value()
    }

    fn all(mut self) -> Map<String, Value> {
        let mut all = self.said.take_definitions(true);
        all.extend(self.told.take_definitions(true));
        all.sort_keys();
        all
    }

    /// What a route answers when all is well, by its status.
    fn answer(&mut self, does: Does) -> Vec<(u16, &'static str, Option<Value>)> {
        let ok = |doc, schema| vec![(200, doc, Some(schema))];
        match does {
            Does::Health => ok("It runs.", self.said::<Health>()),
            Does::Ready => {
                let ready = self.said::<Ready>();
                vec![(200, "New requests should be sent here.", Some(ready.clone())), (503, "They should not.", Some(ready))]
            }
            Does::Config => ok("What is in force.", self.said::<Config>()),
            Does::Patterns => ok("A page of rules.", self.said::<Patterns>()),
            Does::Blocked => ok("What was refused.", self.said::<Blocked>()),
            Does::DrainBlocked => ok("It is forgotten.", self.said::<Drained>()),
            Does::Policy => ok("The policy in force.", self.said::<super::model::Policy>()),
            Does::Explain => ok("What the policy says of the request.", self.said::<Explanation>()),
            Does::Tunnels => ok("A page of tunnels.", self.said::<Tunnels>()),
            Does::CloseTunnel => ok("The tunnel is being closed.", self.said::<TunnelClosed>()),
            Does::Events => vec![(200, "Events, until the client goes away.", Some(json!({ "type": "string" })))],
            Does::Metrics => vec![(200, "Counters.", Some(json!({ "type": "string" })))],
            Does::Stats => ok("Numbers since the start.", self.said::<Stats>()),
            Does::Overview => ok("Hosts that were blocked most, and the last seconds.", self.said::<super::ui::overview::Overview>()),
            Does::Mode => ok("The mode in force.", self.said::<ModeChanged>()),
            Does::Reload => ok("What came of it.", self.said::<Reloaded>()),
            Does::Drain => vec![(202, "It drains.", Some(self.said::<Draining>()))],
            Does::OpenApi => vec![(200, "This document.", Some(json!({ "type": "object" })))],
        }
    }
}

/// Problems of a route that stand for something of its own; others are `default`.
fn problems(route: &Route) -> Vec<(u16, &'static str)> {
    let mut problems = vec![
        (400, "The request is malformed, or a parameter is."),
        (401, "A token is needed, or the one that was given does not hold."),
        (403, "The token does not have the scope, or the request is of a web page."),
        (406, "The client does not take what is here."),
        (429, "Too many requests, or too many tokens that did not hold."),
    ];
    if route.scope == Scope::Write {
        problems.extend([(413, "The body is too long."), (415, "The body is not JSON.")]);
    }
    match route.does {
        Does::CloseTunnel => problems.push((404, "There is no such tunnel.")),
        Does::Mode => {
            let body = [
                (
                    409,
                    "An administrators' layer requires limited mode, or the policy does not say whether one does; or there is nothing to open TLS with.",
                ),
                (411, "The body has no length."),
            ];
            problems.extend(body);
        }
        Does::Reload => {
            problems.extend([(409, "There is no policy file."), (422, "The policy file was refused; the policy in force stays.")])
        }
        Does::Events => problems.push((503, "Too many follow events already.")),
        _ => {}
    }
    problems.sort_unstable();
    problems
}

fn parameter(parameter: &Parameter) -> Value {
    let schema = match &parameter.kind {
        Kind::Text => json!({ "type": "string" }),
        Kind::Number(least, most) => json!({ "type": "integer", "minimum": least, "maximum": most }),
        Kind::OneOf(words) => json!({ "type": "string", "enum": words }),
    };
    json!({ "name": parameter.name, "in": "query", "required": parameter.required, "description": parameter.doc, "schema": schema })
}

fn operation(route: &Route, schemas: &mut Schemas) -> Value {
    let mut parameters: Vec<Value> = route.parameters.iter().map(parameter).collect();
    if route.path.contains("{id}") {
        let schema = json!({ "type": "integer", "minimum": 0, "maximum": super::routes::MAX_SAFE });
        parameters
            .insert(0, json!({ "name": "id", "in": "path", "required": true, "description": "The number of a tunnel.", "schema": schema }));
    }
    if route.does == Does::Events {
        let doc = "The `id` of the last event that was seen: refusals after it come first, as far as they are kept.";
        let schema = json!({ "type": "integer", "minimum": 0, "maximum": super::routes::MAX_SAFE });
        parameters.push(json!({ "name": "Last-Event-ID", "in": "header", "required": false, "description": doc, "schema": schema }));
    }
    let mut responses = Map::new();
    for (status, doc, schema) in schemas.answer(route.does) {
        let kinds = route.kinds.iter().map(|kind| ((*kind).to_owned(), json!({ "schema": schema })));
        responses.insert(status.to_string(), json!({ "description": doc, "content": kinds.collect::<Map<_, _>>() }));
    }
    let problem = schemas.said::<Problem>();
    let problem = |doc: &str| json!({ "description": doc, "content": { PROBLEM: { "schema": problem } } });
    for (status, doc) in problems(route) {
        responses.entry(status.to_string()).or_insert_with(|| problem(doc));
    }
    responses.insert("default".to_owned(), problem("Any other problem."));
    responses.sort_keys();
    let mut operation = json!({
        "operationId": id(route),
        "summary": route.doc,
        "tags": [match route.scope { Scope::Read => "read", Scope::Write => "write" }],
        "security": [{ "bearer": [route.scope.as_str()] }, {}],
        "parameters": parameters,
        "responses": responses,
    });
    if route.body {
        let schema = schemas.told.subschema_for::<ModeChange>().to_value();
        operation["requestBody"] = json!({ "required": true, "content": { JSON: { "schema": schema } } });
    }
    operation
}

/// `getTunnels`.
fn id(route: &Route) -> String {
    let words = route.path.split(['/', '.', '{', '}']).filter(|word| !word.is_empty());
    let words = words.map(|word| word[..1].to_uppercase() + &word[1..]);
    route.method.to_lowercase() + &words.collect::<String>()
}

/// The document.
fn document() -> String {
    let mut schemas = Schemas::new();
    let mut paths: Map<String, Value> = Map::new();
    for route in ROUTES {
        let path = paths.entry(format!("/v1{}", route.path)).or_insert_with(|| json!({}));
        path[route.method.to_lowercase()] = operation(route, &mut schemas);
    }
    let bearer = json!({
        "type": "http",
        "scheme": "bearer",
        "description": "A token of `--admin-token-file`, or one that is signed with the secret of `--admin-shared-secret-file` (JWS, HS256). Where neither is named, and through the unix socket, none is needed.",
    });
    let document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "netproxy-dp admin API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What an operator sees of the proxy, and how he steers it. Each path is there without `/v1`, too.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "tags": [
            { "name": "read", "description": "Asks: the scope `netproxy:read`." },
            { "name": "write", "description": "Changes something: the scope `netproxy:write`." },
        ],
        "paths": paths,
        "components": { "securitySchemes": { "bearer": bearer }, "schemas": schemas.all() },
    });
    serde_json::to_string_pretty(&document).unwrap() + "\n"
}

/// `BLESS=1` writes it anew.
#[test]
fn the_document_is_what_routes_and_models_say() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/admin/openapi.json");
    let expected = document();
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, &expected).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap();
    assert!(found == expected, "src/admin/openapi.json is not what the types say; BLESS=1 writes it anew");
}

#[test]
fn every_route_is_in_the_document_with_an_answer_and_its_problems() {
    let document: Value = serde_json::from_str(&document()).unwrap();
    for route in ROUTES {
        let operation = &document["paths"][format!("/v1{}", route.path)][route.method.to_lowercase()];
        let responses = operation["responses"].as_object().unwrap();
        assert!(responses.keys().any(|status| status.starts_with('2')) && responses.contains_key("default"), "{}", route.path);
        assert_eq!(operation.get("requestBody").is_some(), route.body, "{}", route.path);
    }
    // Nothing refers to what is not there.
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(document["components"]["schemas"].get(name).is_some(), "{name}");
    }
}
