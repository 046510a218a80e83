//! Debian's Chromium, driven by W3C WebDriver (<https://www.w3.org/TR/webdriver2/>): JSON over HTTP, to its chromedriver. Both run in the
//! namespace that the page is looked at from.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use eastgate_testkit::wait::{SLOW_POLL, until_every};
use serde_json::{Value, json};

use crate::common::{BOUND, Space, World};

/// Where chromedriver listens, in its own namespace
const PORT: u16 = 9515;

/// Keys that have no character, as WebDriver writes them (section 17.4.2)
pub(crate) const TAB: char = '\u{e004}';
pub(crate) const ENTER: char = '\u{e007}';
pub(crate) const ESCAPE: char = '\u{e00c}';
pub(crate) const DOWN: char = '\u{e015}';
pub(crate) const RIGHT: char = '\u{e014}';

/// How large what it shows is, in CSS pixels
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// A phone's: with touch, two pixels for one
    pub(crate) phone: bool,
}

pub(crate) const DESK: Size = Size { width: 1280, height: 760, phone: false };
pub(crate) const PHONE: Size = Size { width: 360, height: 740, phone: true };

/// A browser with one page. It ends when it goes out of scope.
pub(crate) struct Browser {
    space: Space,
    driver: Child,
    session: String,
}

impl Browser {
    /// Starts it, or says what is missing.
    pub(crate) fn start(world: &World, space: &Space) -> Self {
        let mut command = space.command("chromedriver");
        command.arg(format!("--port={PORT}")).arg("--allowed-ips=127.0.0.1");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let driver = command.spawn().expect("chromedriver, of Debian's package chromium-driver");
        let mut browser = Self { space: space.clone(), driver, session: String::new() };
        let ready = until_every(SLOW_POLL, BOUND, || {
            browser.ask("GET", "/status", None).is_ok_and(|status| status["ready"] == true)
        });
        assert!(ready, "chromedriver does not answer");
        let profile = format!("--user-data-dir={}", world.path("chromium").display());
        // Root has no sandbox of Chromium's, and a namespace of a test no shared memory of any size.
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--no-first-run",
            "--hide-scrollbars",
            "--lang=en",
            "--force-color-profile=srgb",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--dns-prefetch-disable",
            &profile,
        ];
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "acceptInsecureCerts": true,
            "goog:chromeOptions": { "args": arguments, "binary": "/usr/bin/chromium" },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        } } });
        let session = browser.must("POST", "/session", Some(wanted));
        browser.session = format!("/session/{}", session["sessionId"].as_str().unwrap());
        browser.must_here("POST", "/timeouts", Some(json!({ "script": 120_000 })));
        browser.resize(DESK);
        browser
    }

    /// Asks chromedriver; the error is what it says is wrong.
    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, String> {
        let body = body.map_or_else(String::new, Value::to_string);
        let answer = self.space.enter(|| {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT))?;
            stream.set_read_timeout(Some(2 * BOUND))?;
            write!(
                stream,
                "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{PORT}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )?;
            let mut answer = Vec::new();
            // It closes, or says how long its answer is.
            let mut part = [0; 1 << 16];
            loop {
                let got = stream.read(&mut part)?;
                answer.extend_from_slice(&part[..got]);
                if got == 0 || is_whole(&answer) {
                    return Ok::<_, std::io::Error>(answer);
                }
            }
        });
        let answer = answer.map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&answer);
        let (_, body) = text.split_once("\r\n\r\n").ok_or("no answer")?;
        let mut value: Value = serde_json::from_str(body).map_err(|error| format!("{error}: {body}"))?;
        let value = value["value"].take();
        match value["error"].as_str() {
            Some(error) => Err(format!("{error}: {}", value["message"])),
            None => Ok(value),
        }
    }

    fn must(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        self.ask(method, path, body.as_ref()).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    fn must_here(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        self.must(method, &format!("{}{path}", self.session), body)
    }

    /// Says something to the browser in its own protocol.
    pub(crate) fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.must_here("POST", "/goog/cdp/execute", Some(json!({ "cmd": command, "params": parameters })))
    }

    /// Shows it as large as that.
    pub(crate) fn resize(&self, size: Size) {
        let Size { width, height, phone } = size;
        let parameters = json!({ "width": width, "height": height, "deviceScaleFactor": if phone { 2 } else { 1 }, "mobile": phone });
        self.devtools("Emulation.setDeviceMetricsOverride", parameters);
    }

    /// As a person has set it up who prefers that: `prefers-color-scheme`, `prefers-reduced-motion`.
    pub(crate) fn prefer(&self, what: &str, value: &str) {
        let features = json!({ "features": [{ "name": what, "value": value }] });
        self.devtools("Emulation.setEmulatedMedia", features);
    }

    /// Goes to a page.
    pub(crate) fn open(&self, url: &str) {
        self.must_here("POST", "/url", Some(json!({ "url": url })));
    }

    /// What a script gives back.
    pub(crate) fn run(&self, script: &str) -> Value {
        self.must_here("POST", "/execute/sync", Some(json!({ "script": script, "args": [] })))
    }

    /// What a script gives to `done`, once it does.
    pub(crate) fn run_to_end(&self, script: &str) -> Value {
        let script = format!("const done = arguments[arguments.length - 1]; {script}");
        self.must_here("POST", "/execute/async", Some(json!({ "script": script, "args": [] })))
    }

    /// Waits until an expression is true, and gives it.
    pub(crate) fn wait(&self, what: &str, expression: &str) -> Value {
        let mut last = Value::Null;
        let holds = until_every(Duration::from_millis(50), BOUND, || {
            last = self.run(&format!("return ({expression})"));
            last.as_bool().unwrap_or(!last.is_null() && last != "")
        });
        assert!(holds, "{what}: never; {last}\n{}\n{:#?}", self.text(), self.complaints());
        last
    }

    /// All text that is shown.
    pub(crate) fn text(&self) -> String {
        self.run("return document.body.innerText").as_str().unwrap_or_default().to_owned()
    }

    /// Presses keys, one after the other.
    pub(crate) fn press(&self, keys: &str) {
        let press = |key: char| {
            [json!({ "type": "keyDown", "value": key }), json!({ "type": "keyUp", "value": key })]
        };
        let actions: Vec<Value> = keys.chars().flat_map(press).collect();
        let body = json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": actions }] });
        self.must_here("POST", "/actions", Some(body));
    }

    /// Presses a key until an expression is true: at most so many times.
    pub(crate) fn press_until(&self, key: char, most: usize, expression: &str) {
        for _ in 0..most {
            self.press(&key.to_string());
            if self.run(&format!("return Boolean({expression})")) == true {
                return;
            }
        }
        panic!("{expression}: not after {most} times; {}", self.focused());
    }

    /// What has the keyboard, in words
    pub(crate) fn focused(&self) -> String {
        let script = "const it = document.activeElement; return it.tagName + ' ' + it.id + ' ' + (it.getAttribute('aria-label') ?? it.textContent).slice(0, 80)";
        self.run(script).as_str().unwrap_or_default().to_owned()
    }

    /// Does something while another tab is in front.
    pub(crate) fn in_another_tab(&self, work: impl FnOnce()) {
        let here = self.must_here("GET", "/window", None);
        let other = self.must_here("POST", "/window/new", Some(json!({ "type": "tab" })));
        self.must_here("POST", "/window", Some(json!({ "handle": other["handle"] })));
        work();
        self.must_here("DELETE", "/window", None);
        self.must_here("POST", "/window", Some(json!({ "handle": here })));
    }

    /// Writes what it shows as a PNG.
    pub(crate) fn picture(&self, path: &Path) {
        let value = self.must_here("GET", "/screenshot", None);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, from_base64(value.as_str().unwrap())).unwrap();
    }

    /// What the browser has complained of since it was asked last: errors, and what the page's policy has refused.
    pub(crate) fn complaints(&self) -> Vec<String> {
        self.log("browser")
            .iter()
            .filter(|entry| entry["level"] != "INFO")
            .map(|entry| entry["message"].to_string())
            .collect()
    }

    /// Where requests of pages went since it was asked last, those of the browser's own aside.
    pub(crate) fn asked(&self) -> Vec<String> {
        let messages = self.log("performance");
        let messages = messages
            .iter()
            .filter_map(|entry| serde_json::from_str::<Value>(entry["message"].as_str()?).ok());
        let requests = messages.filter(|it| it["message"]["method"] == "Network.requestWillBeSent");
        let urls = requests.map(|it| it["message"]["params"]["request"]["url"].as_str().unwrap().to_owned());
        urls.filter(|url| !url.starts_with("chrome://")).collect()
    }

    fn log(&self, kind: &str) -> Vec<Value> {
        let entries = self.must_here("POST", "/se/log", Some(json!({ "type": kind })));
        entries.as_array().cloned().unwrap_or_default()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            let _ = self.ask("DELETE", &self.session, None);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// Whether an answer of HTTP has come to its end, where it says how long it is.
fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, _)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    length.is_some_and(|length| answer.len() >= head.len() + 4 + length)
}

/// RFC 4648 section 4
fn from_base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bytes, mut bits, mut count) = (Vec::with_capacity(text.len()), 0_u32, 0);
    for digit in text.bytes().filter_map(|byte| DIGITS.iter().position(|it| *it == byte)) {
        bits = bits << 6 | digit as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    bytes
}
