//! The JSON schema says what the reader does.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use eastgate_config::{Loader, Overlay, Timeouts, load_str, schema};
use serde_json::{Value, json};

use crate::{examples::examples, folder, toml_files};

fn as_json(path: &Path) -> Option<Value> {
    let text = fs::read_to_string(path).ok()?;
    serde_json::to_value(toml::from_str::<toml::Table>(&text).ok()?).ok()
}

/// What of each does not fit, says Python's `jsonschema`.
fn misfits(values: &[Value]) -> Vec<Vec<String>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config/schema.py");
    let mut python = Command::new("/usr/bin/python3");
    let mut child = python.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let asked = json!({ "schema": schema().to_value(), "values": values });
    serde_json::to_writer(child.stdin.take().unwrap(), &asked).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "is python3-jsonschema installed?");
    let found: Vec<Vec<String>> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found.len(), values.len());
    found
}

#[test]
fn the_examples_fit() {
    let examples = examples();
    let values: Vec<Value> = examples.iter().map(|path| as_json(path).unwrap()).collect();
    for (path, errors) in examples.iter().zip(misfits(&values)) {
        assert!(errors.is_empty(), "{}: {errors:?}", path.display());
    }
}

/// What the reader refuses for its form (not for what it means), the schema refuses.
#[test]
fn broken_forms_do_not_fit() {
    let forms = [
        "unknown-key",
        "missing-key",
        "wrong-type",
        "out-of-range",
        "bad-word",
        "bad-name",
        "bad-device",
        "bad-mac",
        "bad-prefix",
        "bad-ports",
        "empty-list",
    ];
    let value = |form: &str| as_json(&folder("configs/broken").join(format!("{form}.toml"))).unwrap();
    for (form, errors) in forms.iter().zip(misfits(&forms.map(value))) {
        assert!(!errors.is_empty(), "{form}");
    }
}

/// The other way round: what does not fit, the reader refuses as well.
#[test]
fn what_does_not_fit_is_refused() {
    let files = toml_files(&folder("configs/broken"));
    let files: Vec<_> = files.iter().filter_map(|path| Some((path, as_json(path)?))).collect();
    let values: Vec<Value> = files.iter().map(|(_, value)| value.clone()).collect();
    for ((path, _), errors) in files.iter().zip(misfits(&values)) {
        assert!(errors.is_empty() || Loader::new(path).load().is_err(), "{}", path.display());
    }
}

#[test]
fn every_key_is_described() {
    fn walk(schema: &Value, path: &str) {
        let Some(object) = schema.as_object() else { return };
        if let Some(properties) = object.get("properties").and_then(Value::as_object) {
            assert_eq!(object.get("additionalProperties"), Some(&json!(false)), "{path}");
            for (key, value) in properties {
                let text = value["description"].as_str().unwrap_or_default();
                assert!(text.len() > 5, "{path}.{key}");
                walk(value, &format!("{path}.{key}"));
            }
        }
        for (key, value) in object.iter().filter(|(key, _)| *key != "properties") {
            walk(value, &format!("{path}/{key}"));
        }
    }
    walk(&schema().to_value(), "");
}

#[test]
fn defaults_are_those_that_count() {
    let schema = schema().to_value();
    let overlay = &schema["properties"]["overlay"]["properties"];
    let counts = Overlay::default();
    assert_eq!(overlay["port"]["default"], counts.port);
    assert_eq!(overlay["ttl"]["default"], json!(counts.ttl));
    assert_eq!(overlay["source_ports"]["default"], json!(counts.source_ports));
    let network = &schema["properties"]["tenant"]["additionalProperties"]["properties"]["network"];
    let network = &network["additionalProperties"]["properties"];
    assert_eq!(network["flood"]["default"], "replicate");
    let established = &network["timeouts"]["properties"]["tcp_established"]["default"];
    assert_eq!(*established, Timeouts::default().tcp_established.as_secs());
}

/// Every default, written out, is what counts without it.
#[test]
fn written_defaults_change_nothing() {
    let schema = schema().to_value();
    let defaults = |properties: &Value| -> String {
        let object = properties.as_object().unwrap();
        let keys =
            object.iter().filter_map(|(key, value)| Some(format!("{key} = {}\n", value.get("default")?)));
        keys.collect()
    };
    let network = &schema["properties"]["tenant"]["additionalProperties"]["properties"]["network"]["additionalProperties"];
    let network = &network["properties"];
    let base = |overlay: &str, network: &str, timeouts: &str, limits: &str| {
        format!(
            "[overlay]\n{overlay}\n[host.alpha]\nvtep = \"10.0.0.1\"\ndevice = \"eth0\"\n\
             [tenant.a.network.n]\nvni = 1\nhosts = [\"alpha\"]\n{network}\n\
             [tenant.a.network.n.timeouts]\n{timeouts}\n[tenant.a.network.n.limits]\n{limits}"
        )
    };
    let written = base(
        &defaults(&schema["properties"]["overlay"]["properties"]),
        &defaults(network),
        &defaults(&network["timeouts"]["properties"]),
        &defaults(&network["limits"]["properties"]),
    );
    assert!(written.lines().count() > 35, "{written}");
    let written = load_str("a", &written).unwrap_or_else(|found| panic!("{found}"));
    let bare = load_str("a", &base("", "", "", "")).unwrap();
    let without_places = |text: String| -> String {
        text.split_inclusive(&[',', '}']).filter(|part| !part.contains("at: ")).collect()
    };
    assert_eq!(without_places(format!("{written:?}")), without_places(format!("{bare:?}")));
}
