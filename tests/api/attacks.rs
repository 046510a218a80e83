//! What is tried against the API, one case a test.

use std::{fs, process::Command};

use eastgate_api::{PAGES, ROUTES};

use crate::{
    OPS,
    common::{EASTGATE, wait_for},
    lab::{Answer, Lab, NAME, PORT, body, new_token},
};

fn is_refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, answer.code().as_str()), (status, code), "{answer:?}");
    assert!(!answer.head.contains("access-control-"), "{answer:?}");
    for header in [
        "x-content-type-options: nosniff",
        "cache-control: no-store",
        "content-security-policy: default-src 'none'",
    ] {
        assert!(answer.head.contains(header), "no {header}: {answer:?}");
    }
}

#[test]
fn without_credentials_nothing_is_answered_or_done() {
    let Some(lab) = Lab::start(&[OPS]) else { return };
    let epoch = || lab.alpha.ask(&["status"])["epoch"].clone();
    let before = epoch();
    let stranger = new_token("stranger", "administer", None).0;
    for (number, route) in ROUTES.iter().enumerate() {
        let answer = lab.ask("", route.method.name(), route.path, &[]);
        is_refused(&answer, 401, "unauthenticated");
        assert!(answer.head.contains("www-authenticate: bearer"), "{answer:?}");
        // Of a token that is not known, no more than a few are looked at.
        if number < 5 {
            let answer = lab.show(&stranger, route.method.name(), route.path, &[]);
            is_refused(&answer, 401, "unauthenticated");
        }
    }
    for path in ["/metrics", "/v1/openapi.json", "/v1/nothing", "/v1"] {
        is_refused(&lab.ask("", "GET", path, &[]), 401, "unauthenticated");
    }
    for secret in ["Basic b3BzOm9wcw==", "Bearer", "Bearer ", "bearer eg_", "Digest x", "\u{fc}"] {
        let header = format!("Authorization: {secret}");
        let answer = lab.ask("", "GET", "/v1/status", &["-H", &header]);
        assert!(matches!(answer.status, 401 | 429), "{secret}: {answer:?}");
    }
    // A token in a query would be in logs and histories.
    let target = format!("/v1/status?token={}", lab.token("ops"));
    is_refused(&lab.ask("", "GET", &target, &[]), 401, "unauthenticated");
    assert_eq!(epoch(), before, "nothing was done");
    // Who may come without says no names.
    for (path, _, role, _) in PAGES {
        if role.is_none() {
            assert_eq!(lab.ask("", "GET", path, &[]).body, "ok\n", "{path}");
        }
    }
}

#[test]
fn tokens_are_not_guessed() {
    let Some(lab) = Lab::start(&[OPS]) else { return };
    let guess = |number: u32| lab.show(&format!("eg_{number:064x}"), "GET", "/v1/status", &[]).status;
    let answers: Vec<u16> = (0..40).map(guess).collect();
    assert_eq!(answers[0], 401);
    assert!(answers.contains(&429), "{answers:?}");
    let page = lab.ask_socket("GET", "/metrics", &[]).body;
    let count = |why: &str| {
        let name = format!("eastgate_api_refusals_total{{why=\"{why}\"}} ");
        page.lines().find_map(|line| line.strip_prefix(&name)?.parse::<f64>().ok()).unwrap()
    };
    assert!(count("token") >= 1.0 && count("rate") >= 1.0, "{page}");
    wait_for("whoever has a token is let in again", || {
        lab.ask("ops", "GET", "/v1/status", &[]).status == 200
    });
}

#[test]
fn what_is_oversized_or_malformed_is_refused() {
    let Some(lab) = Lab::start(&[OPS]) else { return };
    let sizes = [600 << 10, 4 << 20];
    let files = sizes.map(|bytes| lab.site.world.write(&format!("large-{bytes}"), &"x".repeat(bytes)));
    let [large, larger] = files.map(|file| format!("@{}", file.display()));
    for (method, path) in [("POST", "/v1/trace"), ("POST", "/v1/stage"), ("POST", "/v1/flows/kill")] {
        for (expect, file) in [("Expect:", &large), ("Expect: 100-continue", &larger)] {
            let more = ["-H", "Content-Type: application/json", "-H", expect, "--data-binary", file];
            let answer = lab.ask("ops", method, path, &more);
            is_refused(&answer, 413, "too-long");
        }
    }
    // Of headers without end the rest is not read, which may cost whoever sends them the answer.
    let header = format!("X-Large: {}", "x".repeat(64 << 10));
    let answer = lab.try_ask("ops", "GET", "/v1/status", &["-H", &header]);
    assert!(answer.as_ref().is_none_or(|answer| answer.status == 431), "{answer:?}");
    let many: Vec<String> = (0..200).flat_map(|number| ["-H".to_owned(), format!("X-{number}: x")]).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(lab.ask("ops", "GET", "/v1/status", &many).status, 431);
    for (json, status, code) in [
        ("[", 400, "malformed"),
        ("nothing", 400, "malformed"),
        (r#"{"vni":16777216}"#, 400, "malformed"),
        (r#"{"vni":1,"vni":2}"#, 400, "malformed"),
        (r#"{"shoe":1}"#, 400, "malformed"),
        (r#"{"scope":null}"#, 400, "malformed"),
        (r#"{"tenant":"initech","all":true}"#, 400, "not-applicable"),
        (r#"{"limit":3}"#, 400, "not-applicable"),
        (r#"{"endpoint":"nobody"}"#, 422, "invalid"),
    ] {
        let more = body(json);
        let answer = lab.ask("ops", "POST", "/v1/flows/kill", &more.each_ref().map(String::as_str));
        is_refused(&answer, status, code);
    }
    let deep = body(&"[".repeat(100_000));
    is_refused(&lab.ask("ops", "POST", "/v1/trace", &deep.each_ref().map(String::as_str)), 400, "malformed");
    let plain = ["-H", "Content-Type: text/plain", "--data-binary", r#"{"all":true}"#];
    is_refused(&lab.ask("ops", "POST", "/v1/flows/kill", &plain), 415, "media-type");
    for (method, target, status, code) in [
        ("GET", "/v1/reload", 405, "not-allowed"),
        ("PUT", "/v1/status", 405, "not-allowed"),
        ("TRACE", "/v1/status", 405, "not-allowed"),
        ("GET", "/v1/flows?vni=x", 400, "malformed"),
        ("GET", "/v1/flows?prot=6", 400, "not-applicable"),
        ("GET", "/v1/../etc/passwd", 404, "not-found"),
        ("GET", "/%2e%2e/etc/passwd", 404, "not-found"),
    ] {
        is_refused(&lab.ask("ops", method, target, &["--path-as-is"]), status, code);
    }
    assert_eq!(lab.ask("ops", "GET", "/v1/status", &[]).status, 200);
    assert!(!lab.alpha.log().contains("panicked"), "{}", lab.alpha.log());
}

#[test]
fn a_page_of_another_origin_gets_nothing() {
    let Some(lab) = Lab::start(&[OPS]) else { return };
    let own = format!("Origin: https://{NAME}:{PORT}");
    assert_eq!(lab.ask("ops", "GET", "/v1/status", &["-H", &own]).status, 200);
    for origin in [
        "https://evil.example".to_owned(),
        "null".to_owned(),
        format!("http://{NAME}:{PORT}"),
        format!("https://{NAME}"),
        format!("https://{NAME}:{PORT}.evil.example"),
    ] {
        let origin = format!("Origin: {origin}");
        for path in ["/v1/status", "/metrics", "/healthz", "/"] {
            is_refused(&lab.ask("ops", "GET", path, &["-H", &origin]), 403, "forbidden");
        }
        // What a browser asks before it sends what is not simple.
        let preflight = [
            "-H",
            &origin,
            "-H",
            "Access-Control-Request-Method: POST",
            "-H",
            "Access-Control-Request-Headers: authorization",
        ];
        is_refused(&lab.ask("", "OPTIONS", "/v1/reload", &preflight), 403, "forbidden");
        let simple = ["-H", &origin, "-H", "Content-Type: text/plain", "--data-binary", "{}"];
        is_refused(&lab.ask("ops", "POST", "/v1/reload", &simple), 403, "forbidden");
    }
    for site in ["cross-site", "same-site"] {
        let header = format!("Sec-Fetch-Site: {site}");
        is_refused(&lab.ask("ops", "GET", "/v1/status", &["-H", &header]), 403, "forbidden");
    }
    // A name that somebody else has lead here.
    for host in ["evil.example", "", "localhost", "192.0.2.77", "[::1]"] {
        is_refused(&lab.ask("ops", "GET", "/v1/status", &["-H", &format!("Host: {host}")]), 403, "forbidden");
    }
    let by_address = format!("Host: 127.0.0.1:{PORT}");
    assert_eq!(lab.ask("ops", "GET", "/v1/status", &["-H", &by_address]).status, 200);
    let page = lab.ask("", "GET", "/", &[]);
    assert!(page.status == 200 && page.head.contains("default-src 'self'"), "{page:?}");
    assert!(
        page.head.contains("frame-ancestors 'none'") && page.head.contains("x-frame-options: deny"),
        "{page:?}"
    );
}

#[test]
fn without_tls_nobody_is_answered() {
    let Some(lab) = Lab::start(&[OPS]) else { return };
    let mut command = lab.site.alpha.command("curl");
    command.args(["-q", "-sS", "-i", &format!("http://127.0.0.1:{PORT}/healthz")]);
    let output = command.output().unwrap();
    assert!(!String::from_utf8_lossy(&output.stdout).starts_with("HTTP/"), "{output:?}");
    for version in [
        ["--tls-max", "1.1", "--ciphers", "DEFAULT@SECLEVEL=0"],
        ["--tls-max", "1.2", "--ciphers", "AES128-SHA@SECLEVEL=0"],
    ] {
        let mut command = lab.site.alpha.command("curl");
        command.args(["-q", "-sS", "-k"]).args(version).arg(format!("https://127.0.0.1:{PORT}/healthz"));
        assert!(!command.output().unwrap().status.success(), "{version:?}");
    }
}

#[test]
fn secrets_are_in_no_log_and_no_dump() {
    let Some(lab) = Lab::start(&[OPS, ("watch", "read", Some("acme"))]) else { return };
    let stranger = new_token("stranger", "read", None).0;
    assert_eq!(lab.ask("ops", "POST", "/v1/reload", &[]).status, 200);
    assert_eq!(lab.show(&stranger, "GET", "/v1/status", &[]).status, 401);
    assert_eq!(lab.ask("watch", "POST", "/v1/reload", &[]).status, 403);
    assert_eq!(lab.ask("ops", "GET", &format!("/v1/{}", lab.token("ops")), &[]).status, 404);
    let packed = lab.path("support.tar.gz");
    let output = lab.alpha.run(&[
        "support",
        "--config",
        lab.site.config.to_str().unwrap(),
        "--file",
        packed.to_str().unwrap(),
    ]);
    assert!(packed.exists(), "{output:?}");
    let unpacked = Command::new("tar").args(["-xzOf"]).arg(&packed).output().unwrap();
    assert!(unpacked.stdout.len() > 1000, "{unpacked:?}");
    let status = Command::new(EASTGATE)
        .args(["status", "-o", "json", "--socket"])
        .arg(lab.alpha.socket())
        .output()
        .unwrap();
    let line = fs::read(format!("/proc/{}/cmdline", lab.alpha.pid())).unwrap();
    let environment = fs::read(format!("/proc/{}/environ", lab.alpha.pid())).unwrap();
    let key = fs::read_to_string(lab.path("api.key")).unwrap();
    let file = fs::read_to_string(lab.path("tokens.toml")).unwrap();
    let mut secrets = vec![lab.token("ops").to_owned(), lab.token("watch").to_owned(), stranger];
    secrets.extend(key.lines().filter(|line| !line.starts_with('-')).map(str::to_owned));
    secrets.extend(
        file.lines()
            .filter_map(|line| Some(line.strip_prefix("sha256 = \"")?.trim_end_matches('"').to_owned())),
    );
    assert!(secrets.len() >= 7, "{secrets:?}");
    for (place, bytes) in [
        ("the log", lab.alpha.log().into_bytes()),
        ("the support archive", unpacked.stdout),
        ("status", status.stdout),
        ("the command line", line),
        ("the environment", environment),
    ] {
        let text = String::from_utf8_lossy(&bytes);
        for secret in &secrets {
            assert!(!text.contains(secret.as_str()), "{place} has {secret}");
        }
    }
    assert!(lab.alpha.log().contains("a token that is not known was shown"), "{}", lab.alpha.log());
}
