//! `netpolicy schema`.

use super::print;
use crate::cli::Schema;
use policy_compiler::{json_schema, keys};
use std::process::ExitCode;

pub(crate) fn run(arguments: Schema) -> ExitCode {
    let document = match (arguments.requirements, arguments.test) {
        (true, _) => &keys::REQUIREMENTS,
        (_, true) => &keys::TESTS,
        _ => &keys::CONFIG,
    };
    print(format_args!("{:#}\n", json_schema::schema(document)))
}
