//! What is to be seen and heard of the page: contrast in both themes, names of all that can be used, room on a phone, and pictures.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{
    browser::{Browser, DESK, ENTER, PHONE},
    common::World,
    fake::{Fake, ORIGIN},
    few, sign_in, space,
};

/// Where pictures go that are looked at, and not kept.
pub(crate) fn pictures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/page-pictures")
}

/// Moves the map for three seconds, or what else `what` says, and tells how long frames took.
pub(crate) const MEASURE: &str = "
const canvas = document.querySelector('canvas.map');
const box = canvas.getBoundingClientRect();
const list = document.querySelector('.map-list .grid-scroll');
canvas.setPointerCapture = () => {};
const point = (type, x, y) => canvas.dispatchEvent(new PointerEvent(type, { pointerId: 7, clientX: box.x + x, clientY: box.y + y, bubbles: true }));
const gaps = [];
const begun = performance.now();
let [last, frame] = [begun, 0];
if (what === 'pan') point('pointerdown', 300, 300);
const next = (now) => {
  gaps.push(now - last);
  last = now;
  frame += 1;
  if (what === 'pan') point('pointermove', 300 + 200 * Math.sin(frame / 15), 300 + 100 * Math.cos(frame / 15));
  if (what === 'zoom') canvas.dispatchEvent(new WheelEvent('wheel', { deltaY: frame % 120 < 60 ? -40 : 40, clientX: box.x + 400, clientY: box.y + 300, cancelable: true }));
  if (what === 'hover') point('pointermove', 100 + (frame * 7) % 600, 100 + (frame * 3) % 400);
  if (what === 'scroll') list.scrollTop += 90;
  if (now - begun < 3000) return requestAnimationFrame(next);
  if (what === 'pan') point('pointerup', 0, 0);
  gaps.sort((one, other) => one - other);
  const part = (share) => gaps[Math.floor((gaps.length - 1) * share)].toFixed(1);
  done(`${gaps.length} frames, median ${part(0.5)} ms, 95 of 100 within ${part(0.95)} ms, the longest ${part(1)} ms`);
};
requestAnimationFrame(next);";

/// Texts whose contrast with their ground is less than WCAG 2.2 asks for (1.4.3, level AA)
const FAINT: &str = "
const parse = (color) => { const [r, g, b, a = 1] = color.match(/[\\d.]+/g).map(Number); return { r, g, b, a }; };
const light = ({ r, g, b }) => {
  const [x, y, z] = [r, g, b].map((it) => { const c = it / 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; });
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
};
const ground = (element) => {
  for (let it = element; it; it = it.parentElement) { const color = parse(getComputedStyle(it).backgroundColor); if (color.a > 0) return color; }
  return parse('rgb(255, 255, 255)');
};
const faint = [];
for (const element of document.querySelectorAll('body *')) {
  const own = [...element.childNodes].some((it) => it.nodeType === 3 && it.textContent.trim());
  if (!own || !element.checkVisibility({ visibilityProperty: true }) || element.closest('.hidden-text, noscript, option, :disabled, .skip')) continue;
  const style = getComputedStyle(element);
  const [one, other] = [light(parse(style.color)), light(ground(element))];
  const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
  const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && Number(style.fontWeight) >= 700);
  if (ratio < (large ? 3 : 4.5)) faint.push(`${element.tagName}.${element.className} ${element.textContent.slice(0, 30)}: ${ratio.toFixed(2)}`);
}
return faint;";

/// What can be used and has no name, or is reached by no key; headings and landmarks that are not there
const UNNAMED: &str = "
const faults = [];
for (const it of document.querySelectorAll('a[href], button, input, select, textarea, [tabindex], [role=grid]')) {
  if (!it.checkVisibility({ visibilityProperty: true }) || it.matches('main, aside, h2, h3, .matrix-scroll')) continue;
  const by = it.getAttribute('aria-labelledby')?.split(' ').map((id) => document.getElementById(id)?.textContent).join('');
  const name = it.getAttribute('aria-label') ?? by ?? ([...(it.labels ?? [])].map((label) => label.textContent).join('') || it.textContent || it.title);
  if (!name.trim()) faults.push(`no name: ${it.outerHTML.slice(0, 90)}`);
  if (it.tabIndex < 0 && !it.closest('.grid, .matrix')) faults.push(`no key reaches: ${it.outerHTML.slice(0, 90)}`);
}
for (const needed of ['header', 'main', 'h1', 'main h2', '[role=status][aria-live=polite]']) if (!document.querySelector(needed)) faults.push(`no ${needed}`);
if (!document.documentElement.lang) faults.push('no language');
if (document.querySelectorAll('h1').length !== 1) faults.push('one h1');
const ids = [...document.querySelectorAll('[id]')].map((it) => it.id);
for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) faults.push(`twice: ${id}`);
const wide = document.documentElement;
if (wide.scrollWidth > wide.clientWidth) faults.push(`wider than the window: ${wide.scrollWidth}`);
return faults;";

fn none(browser: &Browser, script: &str, what: &str) {
    let found = browser.run(script);
    assert_eq!(found.as_array().map(Vec::len), Some(0), "{what}: {found:#}");
}

const VIEWS: [(&str, &str); 9] = [
    ("map", "#endpoints-title"),
    ("flows", "#flows-title"),
    ("policy", "#matrix-title"),
    ("policy?part=rules", "#rules-title"),
    ("policy?part=staged", "#staged-title"),
    ("drops", "#drops-title"),
    ("events", "#events-title"),
    ("host", "#host-title"),
    ("trace", "#trace-title"),
];

/// Every view, and what is told of a thing, in both themes and on a phone.
#[test]
fn it_can_be_read_and_used_in_both_themes_and_on_a_phone() {
    let Some(mut world) = World::new() else { return };
    let space = space(&mut world);
    let _fake = Fake::start(&space, few(&["web1", "web2", "db1"], "web"));
    let browser = Browser::start(&world, &space);
    for (size, theme, name) in [
        (DESK, "light", "light"),
        (DESK, "dark", "dark"),
        (PHONE, "light", "phone"),
        (PHONE, "dark", "phone-dark"),
    ] {
        browser.resize(size);
        browser.prefer("prefers-color-scheme", theme);
        browser.open(&format!("{ORIGIN}/"));
        browser.wait("a token is asked for", "document.activeElement?.id === 'token'");
        none(&browser, FAINT, &format!("{name}, token"));
        none(&browser, UNNAMED, &format!("{name}, token"));
        sign_in(&browser, ORIGIN, "secret");
        for (view, title) in VIEWS {
            browser.run(&format!("location.hash = '#/{view}'"));
            browser.wait("the view", &format!("document.querySelector('main {title}')"));
            if ["map", "flows", "events", "drops", "policy?part=rules"].contains(&view) {
                browser.wait("a row", "document.querySelector('.grid-body .grid-row:not([hidden])')");
                browser.run("document.querySelector('main .grid-scroll').focus()");
                browser.press(&ENTER.to_string());
                browser.wait("what is told of it", "document.activeElement.id === 'detail-title'");
            }
            if view == "policy" {
                browser.wait("a cell", "document.querySelector('.matrix button')");
                browser.run("document.querySelector('.matrix button').focus()");
                browser.press(&ENTER.to_string());
                browser.wait("what is told of it", "document.activeElement.id === 'detail-title'");
            }
            if view == "trace" {
                browser
                    .run("location.hash = '#/trace?vni=5001&proto=tcp&src=10.1.0.1&dst=10.1.0.3&dport=22'");
                browser.wait("the walk", "document.activeElement.id === 'trace-outcome'");
            }
            let what = format!("{name}, {view}");
            none(&browser, FAINT, &what);
            none(&browser, UNNAMED, &what);
            assert_eq!(
                browser.run("return innerWidth"),
                Value::from(size.width),
                "{what}: a phone has to be moved about"
            );
            browser.picture(&pictures().join(format!("{name}-{}.png", view.replace("?part=", "-"))));
        }
        browser.press("?");
        browser.wait("keys", "document.querySelector('#help').open");
        none(&browser, FAINT, &format!("{name}, keys"));
        browser.press("\u{e00c}");
        browser.wait("keys are gone", "!document.querySelector('#help').open");
    }
    // A theme that is chosen holds against the system's.
    browser.run("const select = document.querySelector('#theme'); select.value = 'light'; select.dispatchEvent(new Event('change'))");
    assert_eq!(
        browser.run("return getComputedStyle(document.documentElement).colorScheme"),
        Value::from("light")
    );
    assert_eq!(browser.complaints(), [""; 0]);
}
