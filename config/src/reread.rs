//! A file of which little changed: only that is parsed again.
//!
//! A tenant of ten thousand endpoints is a file of ten thousand tables, and a change touches one or two of them. What
//! lies before and behind the change was read already, if the change begins and ends between tables that stand by
//! themselves: each a `[tenant.T.KIND.NAME]` with all that belongs to it. Wherever that is in doubt, or anything about the
//! change is wrong, the file is read whole, which is what finds the words for it.

use std::{ops::Range, sync::Arc};

use toml::de::DeTable;

use super::{
    model::Name,
    place::Source,
    read::{At, Named, Reader, Span, Table},
    tables::{FileTable, TenantTable},
};

/// Smaller files are read whole: that takes no time.
const WORTH_IT: usize = 32 << 10;

/// So many bytes are compared at once.
const CHUNK: usize = 4096;

/// Calls a function with the named tables of a kind, for each kind that a tenant has.
macro_rules! for_each_kind {
    ($call:ident($($of:expr),*; $($more:expr),*)) => {
        $call($(&mut $of.network),*, "network", $($more),*)?;
        $call($(&mut $of.group),*, "group", $($more),*)?;
        $call($(&mut $of.set),*, "set", $($more),*)?;
        $call($(&mut $of.policy),*, "policy", $($more),*)?;
        $call($(&mut $of.endpoint),*, "endpoint", $($more),*)?;
    };
}

/// What is kept of a file so that it need not be read whole again; nothing where that would not serve. Nothing must have been
/// wrong with it.
pub(super) fn keep(mut file: FileTable, text: &str) -> Option<FileTable> {
    (text.len() >= WORTH_IT).then_some(())?;
    for (name, tenant) in &mut file.tenant.value {
        stands_alone(tenant, &name.value, text)?;
        // A kind has no place of its own: the parser takes the first table of it for that, which may go.
        for_each_kind!(place_at(tenant; name.span));
    }
    Some(file)
}

/// What changed in a file, read by itself.
pub(super) struct Part {
    /// Where it was, and where it is.
    old: Range<usize>,
    new: Range<usize>,
    tables: FileTable,
}

impl Part {
    /// Reads what changed from the text `old`, of which tables were kept; none where most of it is other text, or where only
    /// the whole tells what it means.
    pub(super) fn read(old: &str, source: &Arc<Source>) -> Option<Self> {
        let new = source.text();
        let before = common_start(old.as_bytes(), new.as_bytes());
        let [rest_old, rest_new] = [old, new].map(|text| text.as_bytes().get(before..).unwrap_or_default());
        let behind = common_end(rest_old, rest_new);
        let start = last_header(old, before)?;
        let end = next_header(old, old.len() - behind);
        let part = start..new.len() - (old.len() - end);
        let ends = end == old.len() || new.get(..part.end).is_some_and(|before| before.ends_with('\n'));
        (ends && part.len() < new.len() / 2).then_some(())?;
        let tables = read_part(source, part.clone())?;
        Some(Self { old: start..end, new: part, tables })
    }

    /// The tables of the new text, from those of the old. Where there are none, the old ones are of no use any more.
    pub(super) fn put_into(self, mut file: FileTable) -> Option<FileTable> {
        // A line that looks like a header may be one of a string that goes on from the change.
        let mut torn = false;
        let cuts = [self.old.start, self.old.end];
        file.table_spans(&mut |span| {
            let Range { start, end } = span.range();
            torn |= cuts.iter().any(|cut| start < *cut && *cut < end);
        });
        (!torn).then_some(())?;
        for (_, tenant) in &mut file.tenant.value {
            for_each_kind!(take_out(tenant; &self.old));
        }
        file.table_spans(&mut |span| torn |= !self.move_place(span));
        (!torn).then_some(())?;
        for (name, mut tenant) in self.tables.tenant.value {
            let at = file.tenant.value.binary_search_by(|(known, _)| known.value.cmp(&name.value)).ok()?;
            let (known, whole) = file.tenant.value.get_mut(at)?;
            // Where a tenant is written first is its place.
            (known.span.range().start < self.old.start).then_some(())?;
            for_each_kind!(put_in(&mut *whole, &mut tenant;));
        }
        Some(file)
    }

    /// Moves a place that lies behind the change; false for one inside, which nobody is to have any more.
    fn move_place(&self, span: &mut Span) -> bool {
        let Range { start, end } = span.range();
        if start >= self.old.end {
            let moved = |at: usize| at - self.old.end + self.new.end;
            *span = (moved(start)..moved(end)).into();
            return true;
        }
        start < self.old.start && end <= self.old.start
    }
}

/// How many bytes two texts have in common at their beginnings.
fn common_start(a: &[u8], b: &[u8]) -> usize {
    let chunks = a.chunks(CHUNK).zip(b.chunks(CHUNK)).take_while(|(a, b)| a == b);
    let start: usize = chunks.map(|(chunk, _)| chunk.len()).sum();
    let [a, b] = [a, b].map(|text| text.get(start..).unwrap_or_default());
    start + a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// And at their ends.
fn common_end(a: &[u8], b: &[u8]) -> usize {
    let chunks = a.rchunks(CHUNK).zip(b.rchunks(CHUNK)).take_while(|(a, b)| a == b);
    let end: usize = chunks.map(|(chunk, _)| chunk.len()).sum();
    let [a, b] = [a, b].map(|text| text.get(..text.len() - end).unwrap_or_default());
    end + a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count()
}

/// The start of the last line before or at `at` that is a table's header.
fn last_header(text: &str, at: usize) -> Option<usize> {
    let starts =
        text.get(..text.floor_char_boundary(at))?.rmatch_indices('\n').map(|(newline, _)| newline + 1);
    starts.into_iter().find(|start| is_own_header(text, *start))
}

/// The start of the first line at or behind `at` that is a table's header, or the end of the text.
fn next_header(text: &str, at: usize) -> usize {
    let from = text.floor_char_boundary(at.saturating_sub(1));
    let newlines = text.get(from..).unwrap_or_default().match_indices('\n');
    let mut starts = newlines.map(|(newline, _)| from + newline + 1);
    starts.find(|start| is_own_header(text, *start)).unwrap_or(text.len())
}

fn is_own_header(text: &str, start: usize) -> bool {
    header(line_at(text, start)).is_some_and(|header| header.own)
}

fn line_at(text: &str, start: usize) -> &str {
    text.get(start..).unwrap_or_default().lines().next().unwrap_or_default()
}

/// A line `[tenant.T.KIND.NAME]`, or of a table inside such a one.
struct Header {
    /// It is the table's own, not of one inside it.
    own: bool,
}

fn header(line: &str) -> Option<Header> {
    let line = line.trim_end();
    let bare = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
    };
    let list = line.strip_prefix("[[").and_then(|line| line.strip_suffix("]]"));
    let path = list.or_else(|| line.strip_prefix('[')?.strip_suffix(']'))?;
    let parts: Vec<&str> = path.split('.').collect();
    let known = parts.len() >= 4 && parts.first() == Some(&"tenant") && parts.iter().all(|part| bare(part));
    known.then_some(Header { own: parts.len() == 4 && list.is_none() })
}

/// Reads a part of a file that begins and ends between tables; none where anything about it is wrong or not as usual.
fn read_part(source: &Arc<Source>, part: Range<usize>) -> Option<FileTable> {
    let start = part.start;
    let text = source.text().get(part)?;
    let mut lines =
        text.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let first = lines.clone().next();
    // A line that only looks like a header is none the worse for being taken for one.
    let usual = lines.all(|line| !line.starts_with('[') || header(line).is_some());
    let begins = first.is_none_or(|line| line.starts_with('['));
    (usual && begins).then_some(())?;
    let parsed = DeTable::parse(text).ok()?;
    parsed.get_ref().keys().all(|key| key.get_ref() == "tenant").then_some(())?;
    let mut reader = Reader::new(source.clone());
    let mut file = FileTable::read_table(parsed.get_ref(), Span::default(), &mut reader);
    let mut torn = !reader.found.is_empty();
    for (name, tenant) in &mut file.tenant.value {
        torn |= !(tenant.description.is_missing() && tenant.mode.is_missing());
        stands_alone(tenant, &name.value, text)?;
    }
    file.table_spans(&mut |span| *span = (start + span.range().start..start + span.range().end).into());
    (!torn).then_some(file)
}

/// Whether every named table of a tenant begins with a header of its own, written as usual.
fn stands_alone(tenant: &mut TenantTable, name: &Name, text: &str) -> Option<()> {
    fn check<T>(named: &mut At<Named<T>>, kind: &str, tenant: &str, text: &str) -> Option<()> {
        let before = format!("[tenant.{tenant}.{kind}.");
        let alone = |(name, _): &(At<Name>, T)| {
            let Range { start, end } = name.span.range();
            let line =
                start.checked_sub(before.len()).filter(|line| text.get(*line..start) == Some(&*before));
            let starts = line.is_some_and(|line| line == 0 || text.as_bytes().get(line - 1) == Some(&b'\n'));
            starts && text.get(start..end) == Some(&*name.value) && is_own_header(text, line.unwrap_or(0))
        };
        named.value.iter().all(alone).then_some(())
    }
    for_each_kind!(check(tenant; name, text));
    Some(())
}

fn place_at<T>(named: &mut At<Named<T>>, _: &str, place: Span) -> Option<()> {
    named.span = place;
    Some(())
}

/// Takes the tables out that a change was in.
fn take_out<T>(named: &mut At<Named<T>>, _: &str, changed: &Range<usize>) -> Option<()> {
    named.value.retain(|(name, _)| !changed.contains(&name.span.range().start));
    Some(())
}

/// Puts tables in, sorted by name. What is there twice is for the whole to say.
fn put_in<T>(whole: &mut At<Named<T>>, part: &mut At<Named<T>>, _: &str) -> Option<()> {
    if part.value.is_empty() {
        return Some(());
    }
    whole.value.append(&mut part.value);
    whole.value.sort_by(|(a, _), (b, _)| a.value.cmp(&b.value));
    whole.value.is_sorted_by(|(a, _), (b, _)| a.value != b.value).then_some(())
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::*;
    use crate::check::{self, FileContent};

    fn endpoint(tenant: &str, name: &str, number: usize) -> String {
        let pair = if number.is_multiple_of(3) {
            format!(
                "[[tenant.{tenant}.endpoint.{name}.allowed_pairs]]\naddress = \"10.1.9.{}/32\"\n",
                number % 250
            )
        } else {
            String::new()
        };
        format!(
            "[tenant.{tenant}.endpoint.{name}]\nnetwork = \"lan\"\nhost = \"a\"\nport = \"{tenant}-{name}\"\n\
             mac = \"02:00:00:00:{:02x}:{:02x}\"\naddresses = [\n  \"10.1.{}.{}\", # ü\n]\ngroups = [\"all\"]\n{pair}",
            number / 256,
            number % 256,
            1 + number / 200,
            1 + number % 200
        )
    }

    fn group(tenant: &str, name: &str) -> String {
        format!("[[tenant.{tenant}.group.{name}.ingress]]\nfrom = \"any\"\n\n").replacen(
            "[[",
            &format!("[tenant.{tenant}.group.{name}]\n[["),
            1,
        )
    }

    fn policy(action: &str) -> String {
        format!(
            "[tenant.acme.policy.p]\napplies_to = \"tenant\"\n[[tenant.acme.policy.p.ingress]]\naction = \"{action}\"\n\
             from = {{ prefix = \"10.0.0.0/8\", except = [\"10.1.0.0/16\"] }}\n"
        )
    }

    fn base() -> String {
        let mut text = "[host.a]\nvtep = \"192.0.2.1\"\ndevice = \"e\"\n".to_owned();
        for (vni, tenant) in (1..).zip(["acme", "beta"]) {
            let _ = write!(text, "[tenant.{tenant}.network.lan]\nvni = {vni}\nsubnets = [\"10.1.0.0/16\"]\n");
            text += &group(tenant, "all");
            (0..120).for_each(|number| text += &endpoint(tenant, &format!("vm{number:03}"), number));
        }
        assert!(text.len() > WORTH_IT);
        text
    }

    fn read(text: &str, known: Option<&FileContent>) -> FileContent {
        check::file(Source::new("a.toml", text), false, known)
    }

    /// Whether the new text was read in part; it is read as it is without anything known.
    fn is_read_in_part(old: &str, new: &str) -> bool {
        let known = read(old, None);
        let source = Source::new("a.toml", new);
        let part = Part::read(old, &source).and_then(|part| part.put_into(keep_of(old)?));
        let [with, without] = [Some(&known), None].map(|known| format!("{:?}", read(new, known)));
        assert!(with == without, "{new}");
        part.is_some()
    }

    fn keep_of(text: &str) -> Option<FileTable> {
        let parsed = DeTable::parse(text).unwrap();
        let mut reader = Reader::new(Source::new("a.toml", text));
        keep(FileTable::read_table(parsed.get_ref(), Span::default(), &mut reader), text)
    }

    #[test]
    fn what_is_usual_is_read_in_part() {
        let base = base();
        let one = endpoint("acme", "vm050", 50);
        let all = group("acme", "all");
        for (what, new) in [
            ("one comes at the end", format!("{base}{}", endpoint("acme", "new", 130))),
            ("one comes between", base.replace(&one, &format!("{one}{}", endpoint("acme", "new", 130)))),
            ("one goes", base.replace(&one, "")),
            ("the last goes", base.replace(&endpoint("beta", "vm119", 119), "")),
            (
                "one moves",
                base.replace(&one, "").replace(
                    &endpoint("acme", "vm060", 60),
                    &format!("{}{one}", endpoint("acme", "vm060", 60)),
                ),
            ),
            ("a name", base.replace(&one, &one.replace("vm050", "vm50"))),
            ("a rule", base.replace(&all, &all.replace("\"any\"", "\"10.1.0.0/16\""))),
            ("a rule comes", base.replace(&all, &all.replace("\n\n", "\nproto = \"tcp\"\n"))),
            ("a group comes", base.replace(&all, &format!("{all}{}", group("acme", "web")))),
            ("a policy comes", base.replace(&one, &format!("{one}{}", policy("pass")))),
            (
                "a set comes",
                base.replace(&one, &format!("{one}[tenant.acme.set.s]\naddresses = [\"10.9.0.0/16\"]\n")),
            ),
            ("a comment", base.replace(&one, &format!("# one\n{one}"))),
            ("nothing", base.clone()),
        ] {
            assert!(is_read_in_part(&base, &new), "{what}");
        }
    }

    #[test]
    fn what_only_the_whole_tells_is_read_whole() {
        let base = base();
        let one = endpoint("acme", "vm050", 50);
        for (what, change) in [
            ("there already", one.replace("vm050", "vm060")),
            ("another tenant's first", endpoint("gamma", "vm1", 3)),
            ("a table of its own", format!("{one}[host.b]\nvtep = \"192.0.2.2\"\ndevice = \"e\"\n")),
            ("no header", format!("x = 1\n{one}")),
            ("an open list", one.replace("]\ngroups", "groups")),
            ("an open string", one.replace("\"lan\"", "\"\"\"lan")),
            (
                "a part of another",
                format!("{one}[[tenant.acme.endpoint.vm001.allowed_pairs]]\naddress = \"10.1.9.9/32\"\n"),
            ),
            (
                "another spelling",
                one.replace("[tenant.acme.endpoint.vm050]", "[tenant.acme.endpoint.\"vm050\"]"),
            ),
            ("the mode", format!("{one}[tenant.acme]\nmode = \"audit\"\n")),
            (
                "a policy of the site",
                format!(
                    "{one}{}",
                    policy("pass").replace("tenant.acme.", "").replace("\"tenant\"", "\"site\"")
                ),
            ),
            (
                "a part of a policy",
                format!("{one}[[tenant.acme.policy.p.egress]]\naction = \"deny\"\nto = \"any\"\n"),
            ),
            ("another table", format!("{one}[ tenant . acme ]\ndescription = \"x\"\n")),
            ("nothing of it", "[tenant.acme.endpoint.vm050]\n".to_owned()),
            ("an unknown key", one.replace("port =", "prot =")),
        ] {
            assert!(!is_read_in_part(&base, &base.replace(&one, &change)), "{what}");
        }
    }

    /// What looks like a table in a string of the change is one when the string is closed before it.
    #[test]
    fn a_string_that_goes_on_behind_the_change_is_read_whole() {
        let base = base();
        let one = endpoint("acme", "vm050", 50);
        let string = |quotes: &str| {
            let policy = |name: &str| {
                format!(
                    "[tenant.acme.policy.{name}]\napplies_to = \"tenant\"\ningress = [{{ action = \"deny\", from = \"any\" }}]\n"
                )
            };
            let text = format!("{}description = {quotes}\n{}# \"\"\"\n", policy("p"), policy("hidden"));
            base.replace(&one, &format!("{text}{one}"))
        };
        assert!(!is_read_in_part(&string("\"\"\""), &string("\"\"")));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// Cut, doubled and broken anywhere, twice in a row.
        #[test]
        fn a_text_is_read_as_it_is_without_anything_known(edits in proptest::collection::vec(
            (0usize..34_000, 0usize..400, 0usize..8, 0usize..34_000), 1..4))
        {
            let mut known = read(&base(), None);
            for (at, len, what, from) in edits {
                let old = known.source.text().to_owned();
                let boundary = |at: usize| old.floor_char_boundary(at.min(old.len()));
                let line = |at: usize| old[..boundary(at)].rfind("\n[").map_or(0, |newline| newline + 1);
                let piece = &old[line(from)..line(from + len).max(line(from))];
                let (start, end, put) = match what {
                    0 => (boundary(at), boundary(at + len % 20), ""),
                    1 => (line(at), line(at + len), ""),
                    2 => (line(at), line(at), piece),
                    3 => (boundary(at), boundary(at), "\n[tenant.acme.endpoint.x]\n"),
                    4 => (boundary(at), boundary(at), "\"\"\""),
                    5 => (boundary(at), boundary(at), "[["),
                    6 => (line(at), line(at + len), piece),
                    _ => (boundary(at), boundary(at), "7"),
                };
                let new = format!("{}{put}{}", &old[..start], &old[end.max(start)..]);
                let [with, without] = [Some(&known), None].map(|known| read(&new, known));
                prop_assert!(format!("{with:?}") == format!("{without:?}"), "{}", new);
                known = with;
            }
        }
    }
}
