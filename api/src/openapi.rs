//! The description of the HTTP API (OpenAPI 3.1), made from the routes and from the types that travel.

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use crate::{
    CallerRow, Done, DropRows, EndpointRow, EventRow, Events, ExpectationRow, Failure, FdbRow, Filter,
    FlowRow, List, MachineRow, MatrixRow, NeighborRow, PAGES, Page, PolicyRow, ProbeReport, ProbeRequest,
    ROUTES, Request, Role, Route, RuleCountRow, StagedRows, Status, Takes, TraceReport, TraceRequest,
    route::File,
};

/// Where types are described.
const TYPES: &str = "/components/schemas";

/// Everything that can be asked and is answered.
#[must_use]
pub fn openapi() -> Value {
    let settings = || {
        SchemaSettings::draft2020_12().with(|settings| {
            settings.definitions_path = TYPES.into();
            settings.meta_schema = None;
        })
    };
    let mut answers = settings().for_serialize().into_generator();
    let mut questions = settings().for_deserialize().into_generator();
    let filter = questions.root_schema_for::<Filter>().to_value();
    let mut paths = Map::new();
    let mut add = |path: &str, method: &str, operation: Value| {
        let entry = paths.entry(path.to_owned()).or_insert_with(|| json!({}));
        if let Some(entry) = entry.as_object_mut() {
            entry.insert(method.to_lowercase(), operation);
        }
    };
    for route in &ROUTES {
        add(
            route.path,
            route.method.name(),
            operation(route, &filter["properties"], &mut questions, &mut answers),
        );
    }
    for (path, page, role, summary) in PAGES {
        add(path, "GET", of_page(page, path, role, summary, &mut answers));
    }
    // A type that is asked and answered is one.
    let mut types = questions.take_definitions(true);
    types.extend(answers.take_definitions(true));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "eastgate",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What `eastgate run` is asked and answers: over its control socket, whose owner may do everything, and \
                            over TLS with a token. A token has a role, of which each includes those before: `read`, `operate`, \
                            `administer`; and it may be confined to tenants.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "paths": paths,
        "components": {
            "schemas": types,
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
        },
    })
}

fn operation(
    route: &Route,
    fields: &Value,
    questions: &mut SchemaGenerator,
    answers: &mut SchemaGenerator,
) -> Value {
    let mut operation = described(&route.name(), route.summary, Some(route.role()));
    let mut parameters = Vec::new();
    if matches!(route.takes, Takes::Query(_)) {
        parameters.extend(route.criteria().iter().map(|criterion| {
            let name = criterion.name();
            parameter(name, &fields[name])
        }));
    }
    for name in route.parameters() {
        parameters.push(parameter(name, &json!({ "type": "boolean" })));
    }
    if !parameters.is_empty() {
        operation.insert("parameters".into(), parameters.into());
    }
    let body = match route.takes {
        Takes::Nothing(_) | Takes::Query(_) => None,
        Takes::Filter(_) => Some(of_criteria(route, fields)),
        Takes::Packet(_) => Some(schema::<TraceRequest>(questions)),
        Takes::Probe(_) => Some(schema::<ProbeRequest>(questions)),
        Takes::File(_) => Some(schema::<File>(questions)),
    };
    if let Some(schema) = body {
        let body = json!({ "required": true, "content": { "application/json": { "schema": schema } } });
        operation.insert("requestBody".into(), body);
    }
    let mut content = json!({ "application/json": { "schema": answer(&route.sample(), answers) } });
    if !route.parameters().is_empty() {
        // Each message has one of these as its `data`.
        content["text/event-stream"] = json!({ "schema": schema::<EventRow>(answers) });
    }
    operation.insert("responses".into(), responses(content, answers));
    operation.into()
}

/// What each operation has.
fn described(name: &str, summary: &str, role: Option<Role>) -> Map<String, Value> {
    let id: String = name.chars().map(|it| if it.is_ascii_alphanumeric() { it } else { '_' }).collect();
    let mut operation = Map::new();
    operation.insert("operationId".into(), id.to_lowercase().replace("__", "_").into());
    operation.insert("summary".into(), summary.into());
    match role {
        Some(role) => {
            operation.insert("security".into(), json!([{ "token": [] }]));
            operation.insert("x-eastgate-role".into(), role.name().into());
        }
        None => {
            operation.insert("security".into(), json!([]));
        }
    }
    operation
}

fn responses(content: Value, answers: &mut SchemaGenerator) -> Value {
    json!({
        "200": { "description": "It was done", "content": content },
        "default": {
            "description": "Why not",
            "content": { "application/json": { "schema": schema::<Failure>(answers) } },
        },
    })
}

fn parameter(name: &str, field: &Value) -> Value {
    let mut schema = field.clone();
    let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
    json!({ "name": name, "in": "query", "description": description, "schema": schema })
}

/// A filter with what the route holds against its rows.
fn of_criteria(route: &Route, fields: &Value) -> Value {
    let named = route.criteria().iter().map(|criterion| criterion.name());
    let properties: Map<String, Value> = named.map(|name| (name.to_owned(), fields[name].clone())).collect();
    json!({ "type": "object", "properties": properties, "additionalProperties": false })
}

fn schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    generator.subschema_for::<T>().to_value()
}

/// What a request is answered with.
fn answer(request: &Request, generator: &mut SchemaGenerator) -> Value {
    match request {
        Request::Status {} => schema::<Status>(generator),
        Request::Endpoints(_) => schema::<List<EndpointRow>>(generator),
        Request::Fdb(_) => schema::<List<FdbRow>>(generator),
        Request::Flows(_) => schema::<List<FlowRow>>(generator),
        Request::Expectations(_) => schema::<List<ExpectationRow>>(generator),
        Request::Neighbors(_) => schema::<List<NeighborRow>>(generator),
        Request::Drops(_) => schema::<DropRows>(generator),
        Request::Policy(_) => schema::<List<PolicyRow>>(generator),
        Request::Rules(_) => schema::<List<RuleCountRow>>(generator),
        Request::Matrix(_) => schema::<List<MatrixRow>>(generator),
        Request::Events(_) => schema::<Events>(generator),
        Request::Staged(_) => schema::<StagedRows>(generator),
        Request::Machines(_) => schema::<List<MachineRow>>(generator),
        Request::Trace(_) => schema::<TraceReport>(generator),
        Request::Probe(_) => schema::<ProbeReport>(generator),
        Request::Reload {}
        | Request::Stage { .. }
        | Request::Unstage {}
        | Request::FdbFlush(_)
        | Request::FlowsKill(_) => schema::<Done>(generator),
    }
}

fn of_page(
    page: Page,
    path: &str,
    role: Option<Role>,
    summary: &str,
    answers: &mut SchemaGenerator,
) -> Value {
    let mut operation = described(&format!("GET {path}"), summary, role);
    let content = match page {
        Page::OpenApi => json!({ "application/json": { "schema": { "type": "object" } } }),
        Page::Caller => json!({ "application/json": { "schema": schema::<CallerRow>(answers) } }),
        Page::Health | Page::Ready | Page::Metrics => {
            json!({ "text/plain": { "schema": { "type": "string" } } })
        }
    };
    let mut responses = responses(content, answers);
    if page == Page::Ready {
        responses["503"] = json!({
            "description": "It does not",
            "content": { "text/plain": { "schema": { "type": "string" } } },
        });
    }
    operation.insert("responses".into(), responses);
    operation.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_routes_are_described_and_all_that_is_named_is_there() {
        let api = openapi();
        for route in &ROUTES {
            let operation = &api["paths"][route.path][route.method.name().to_lowercase()];
            assert_eq!(operation["x-eastgate-role"], route.role().name(), "{}", route.name());
        }
        let text = api.to_string();
        for named in text.split("\"$ref\":\"#").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(api.pointer(named).is_some(), "{named}");
        }
        assert!(text.contains("#/components/schemas/FlowRow"), "{text}");
        let parameters = api["paths"]["/v1/flows"]["get"]["parameters"].as_array().unwrap();
        assert_eq!(parameters.len(), find_flows().criteria().len());
        assert!(parameters.iter().all(|parameter| parameter["description"].is_string()));
    }

    fn find_flows() -> &'static Route {
        crate::find("GET", "/v1/flows").unwrap()
    }
}
