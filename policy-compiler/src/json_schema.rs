//! JSON Schema of the TOML that netpolicy reads, for editors: generated from [`crate::keys`].
//!
//! Draft 7, which the TOML language servers understand best. It checks what a schema can check cheaply; `netpolicy compile` checks the rest.

use crate::keys::{self, Key, Kind, Table};
use crate::presets::PRESETS;
use policy_format::{Limit, LimitKind};
use serde_json::{Map, Value, json};

/// The schema of a document: one of [`keys::DOCUMENTS`].
#[must_use]
pub fn schema(document: &'static Table) -> Value {
    let mut definitions = Map::new();
    let mut schema = json!({ "$schema": "http://json-schema.org/draft-07/schema#", "title": format!("netpolicy {}", document.name) });
    merge(&mut schema, table(document, &mut definitions));
    merge(&mut schema, json!({ "definitions": definitions }));
    schema
}

fn table(table: &'static Table, definitions: &mut Map<String, Value>) -> Value {
    let mut properties = Map::new();
    for key in table.all_keys() {
        if !properties.contains_key(key.name) {
            properties.insert(key.name.to_owned(), property(key, definitions));
        }
    }
    let mut schema = json!({ "description": table.doc, "type": "object", "properties": properties, "additionalProperties": table.open });
    let always: Vec<&str> = table.required.iter().filter_map(|names| names.first().filter(|_| names.len() == 1)).copied().collect();
    let alternatives = table.required.iter().filter(|names| names.len() > 1);
    let one_of: Vec<Value> =
        alternatives.map(|names| json!({ "oneOf": names.iter().map(|name| json!({ "required": [name] })).collect::<Vec<_>>() })).collect();
    if !always.is_empty() {
        merge(&mut schema, json!({ "required": always }));
    }
    if !one_of.is_empty() {
        merge(&mut schema, json!({ "allOf": one_of }));
    }
    schema
}

fn property(key: &'static Key, definitions: &mut Map<String, Value>) -> Value {
    let mut value = kind(&key.kind, definitions);
    if key.name == "presets" {
        let names: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
        value = json!({ "type": "array", "items": { "enum": names } });
    }
    // Readers of draft 7 pass over what stands beside a `$ref`.
    if value.get("$ref").is_some() {
        value = json!({ "allOf": [value] });
    }
    let description = match key.instead {
        Some(instead) => format!("{} Older spelling: write `{instead}`.", key.doc),
        None => key.doc.to_owned(),
    };
    let mut schema = json!({ "description": description });
    merge(&mut schema, value);
    if let Some(default) = key.default {
        merge(&mut schema, json!({ "default": literal(default) }));
    }
    if !key.examples.is_empty() {
        merge(&mut schema, json!({ "examples": key.examples.iter().map(|example| literal(example)).collect::<Vec<_>>() }));
    }
    if key.instead.is_some() {
        merge(&mut schema, json!({ "deprecated": true }));
    }
    schema
}

fn kind(of: &'static Kind, definitions: &mut Map<String, Value>) -> Value {
    match of {
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::Text => json!({ "type": "string" }),
        Kind::Matches(pattern) => json!({ "type": "string", "pattern": pattern }),
        Kind::Choice(words) => json!({ "enum": words }),
        Kind::Integer(from, to) => json!({ "type": "integer", "minimum": from, "maximum": to }),
        Kind::List(items, fewest) => json!({ "type": "array", "items": kind(items, definitions), "minItems": fewest }),
        Kind::Table(table) => reference(table, definitions),
        Kind::Map(names, value) => {
            json!({ "type": "object", "propertyNames": { "pattern": names }, "additionalProperties": kind(value, definitions) })
        }
        Kind::Domains => domains(definitions),
        Kind::Any(kinds) => json!({ "anyOf": kinds.iter().map(|of| kind(of, definitions)).collect::<Vec<_>>() }),
        Kind::Limit(limit) => limit_value(limit),
        Kind::Free => json!({ "type": "object" }),
    }
}

/// A number, which is seconds for a time, or text with one of its units.
fn limit_value(limit: &Limit) -> Value {
    let per_second = if limit.kind == LimitKind::Time { 1000 } else { 1 };
    let most = i64::MAX.unsigned_abs().min(limit.max / per_second);
    let units: Vec<&str> = limit.units().iter().map(|(name, _)| *name).filter(|name| !name.is_empty()).collect();
    let unit = if units.is_empty() { String::new() } else { format!(" *({})?", units.join("|")) };
    let text = json!({ "type": "string", "pattern": format!("^[0-9]+{unit}$") });
    let number = json!({ "type": "integer", "minimum": limit.min.div_ceil(per_second), "maximum": most });
    let shown = limit.shown(limit.default);
    let default = shown.parse::<u64>().map_or(Value::from(shown), Value::from);
    json!({ "anyOf": [number, text], "default": default })
}

fn domains(definitions: &mut Map<String, Value>) -> Value {
    let rule = reference(&keys::RULE, definitions);
    let not_denied: Vec<&str> = keys::ACCESS.iter().filter(|access| **access != "deny").copied().collect();
    let everything = "Every host. It cannot be denied: what no rule allows is denied anyway.";
    json!({
        "type": "object",
        "propertyNames": { "pattern": keys::PATTERN, "not": { "enum": keys::EVERYTHING } },
        "properties": { "*": { "description": everything, "anyOf": [{ "enum": not_denied }, rule.clone()] } },
        "additionalProperties": { "anyOf": [{ "enum": keys::ACCESS }, rule] },
    })
}

/// A reference to a table's definition, which is made the first time.
fn reference(to: &'static Table, definitions: &mut Map<String, Value>) -> Value {
    if !definitions.contains_key(to.name) {
        // Holds the place, so that a table that names itself ends.
        definitions.insert(to.name.to_owned(), Value::Null);
        let definition = table(to, definitions);
        definitions.insert(to.name.to_owned(), definition);
    }
    json!({ "$ref": format!("#/definitions/{}", to.name) })
}

/// A value of the tables; a test holds that all of them are JSON.
fn literal(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or(Value::Null)
}

fn merge(into: &mut Value, from: Value) {
    if let (Value::Object(into), Value::Object(from)) = (into, from) {
        into.extend(from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An editor must not underline what compiles.
    #[test]
    fn what_compiles_as_a_pattern_passes() {
        let names = &domains(&mut Map::new())["propertyNames"];
        for text in [
            "*",
            "*.example.com",
            "**.example.com:8443",
            "region*.example.com",
            "{a,b}.example.com",
            "[ab]?.example.com",
            " Example.COM. ",
            "10.0.0.0/8",
            "[2001:db8::1]:443",
            "2001:db8::/32",
            "bücher.example",
            "localhost:3000",
        ] {
            assert!(policy_format::Pattern::parse(text).is_ok(), "{text}");
            assert!(jsonschema::is_valid(names, &text.into()), "{text}");
        }
    }

    #[test]
    fn every_default_and_example_is_what_its_key_accepts() {
        fn walk(node: &Value, root: &Value, checked: &mut usize) {
            let values = node.get("default").into_iter().chain(node.get("examples").and_then(Value::as_array).into_iter().flatten());
            // A key may be named `default`; a schema is an object with a description.
            for value in values.filter(|_| node.get("description").is_some_and(Value::is_string)) {
                let mut schema = node.clone();
                merge(&mut schema, json!({ "definitions": root["definitions"] }));
                assert!(!value.is_null() && jsonschema::is_valid(&schema, value), "{value} in {node}");
                *checked += 1;
            }
            match node {
                Value::Object(object) => object.values().for_each(|inner| walk(inner, root, checked)),
                Value::Array(array) => array.iter().for_each(|inner| walk(inner, root, checked)),
                _ => {}
            }
        }
        let mut checked = 0;
        for document in keys::DOCUMENTS {
            let schema = schema(document);
            assert!(jsonschema::meta::is_valid(&schema), "{}", document.name);
            walk(&schema, &schema, &mut checked);
        }
        assert!(checked > 30, "{checked}");
    }
}
