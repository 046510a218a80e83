//! A large file in parts: each table that stands by itself is read by itself, and again only where its text changed.
//!
//! A tenant of ten thousand endpoints is a file of ten thousand tables `[tenant.T.KIND.NAME]`, and a change touches one or
//! two of them. The file is cut where such a table begins and where it ends; what lies between them is read together. Every
//! piece is TOML without the others, so that no string and no list reaches from one into the next. Wherever that is in
//! doubt, or anything is wrong, the file is read whole, which is what finds the words for it.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::Arc,
};

use ahash::RandomState;
use toml::de::{DeTable, DeValue};

use super::{
    check::refuse_misplaced,
    place::Source,
    read::{At, Named, Reader, Sources, Span, Table},
    tables::{FileTable, TenantTable},
    values::is_name,
};

/// Smaller files are read whole: that takes no time.
const WORTH_IT: usize = 32 << 10;

/// What the header of a tenant's table begins with
const TENANT: &str = "[tenant.";

/// What was read of a file in parts.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    /// Its tables: those that did not change are the very ones that were read before.
    pub(super) file: FileTable,
    /// The file, and each part by its number
    pub(super) sources: Arc<Sources>,
    /// The parts in the order in which they are written, each with its range of the file
    order: Vec<(u32, Range<usize>)>,
}

/// The kinds of tables that are parts
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Network,
    Group,
    Set,
    Policy,
    Endpoint,
}

/// The line `[tenant.T.KIND.NAME]`
#[derive(Clone, Copy, PartialEq, Eq)]
struct Header<'t> {
    tenant: &'t str,
    kind: Kind,
    name: &'t str,
}

/// What a line that begins with a bracket is
enum Line<'t> {
    /// The first of a part
    First(Header<'t>),
    /// Of a table inside a part
    Inside(Header<'t>),
    Other,
}

/// A part as it was cut out.
struct Cut<'t> {
    header: Header<'t>,
    range: Range<usize>,
    /// So many lines are before it.
    lines: u32,
}

/// A text that was cut.
#[derive(Default)]
struct Pieces<'t> {
    parts: Vec<Cut<'t>>,
    rest: Vec<Range<usize>>,
}

/// What parts say of a tenant.
struct InParts {
    /// Where its name is written first in them
    name: Span,
    table: TenantTable,
}

impl Parts {
    /// Reads a file in parts, or none where only the whole tells what it means. `known` is what was read of it before.
    pub(super) fn read(source: &Arc<Source>, included: bool, known: Option<&Self>) -> Option<Self> {
        let text = source.text();
        (text.len() >= WORTH_IT).then_some(())?;
        let Pieces { parts, rest } = cut(text)?;
        let mut file = read_rest(source, &rest, included)?;
        let numbers = find_known(text, &parts, known);
        let mut sources = known.map_or_else(|| vec![source.clone()], |known| known.sources.to_vec());
        *sources.first_mut()? = source.clone();
        let mut kept = vec![false; sources.len()];
        for number in numbers.iter().flatten() {
            let is_second = std::mem::replace(kept.get_mut(*number as usize)?, true);
            (!is_second).then_some(())?;
        }
        let mut free = (1..kept.len()).filter(|number| kept.get(*number) == Some(&false));
        let mut order = Vec::with_capacity(parts.len());
        let mut tenants: BTreeMap<&str, InParts> = BTreeMap::new();
        for (part, known) in parts.iter().zip(numbers) {
            let number = match known {
                Some(number) => number,
                None => add_source(source.part(part.range.clone())?, &mut sources, free.next()),
            };
            order.push((number, part.range.clone()));
            let Header { tenant, .. } = part.header;
            let in_parts = tenants.entry(tenant).or_insert_with(|| InParts {
                name: Span::from(TENANT.len()..TENANT.len() + tenant.len()).of(number),
                table: TenantTable::default(),
            });
            if known.is_none() {
                read_part(sources.get(number as usize)?, number, part.header, &mut in_parts.table)?;
            }
        }
        for (part, (number, _)) in parts.iter().zip(&order) {
            sources.get(*number as usize)?.moved(part.lines, part.range.start as u32);
        }
        let is_kept = |span: Span| kept.get(span.source() as usize) == Some(&true);
        for (name, InParts { name: first, mut table }) in tenants {
            let before = known.and_then(|known| tenant_of(&known.file, name));
            let empty = TenantTable::default();
            let before = before.unwrap_or(&empty);
            put_together(&mut table.network.value, &before.network.value, is_kept)?;
            put_together(&mut table.group.value, &before.group.value, is_kept)?;
            put_together(&mut table.set.value, &before.set.value, is_kept)?;
            put_together(&mut table.policy.value, &before.policy.value, is_kept)?;
            put_together(&mut table.endpoint.value, &before.endpoint.value, is_kept)?;
            add_tenant(&mut file, name, first, table);
        }
        Some(Self { file, sources: Arc::new(sources), order })
    }
}

fn add_source(new: Arc<Source>, sources: &mut Sources, free: Option<usize>) -> u32 {
    if let Some((number, place)) = free.and_then(|free| Some((free, sources.get_mut(free)?))) {
        *place = new;
        return number as u32;
    }
    sources.push(new);
    (sources.len() - 1) as u32
}

fn tenant_of<'f>(file: &'f FileTable, name: &str) -> Option<&'f TenantTable> {
    let at = file.tenant.value.binary_search_by(|(known, _)| (*known.value).cmp(name)).ok()?;
    file.tenant.value.get(at).map(|(_, table)| &**table)
}

/// Adds what parts say of a tenant to what the rest of the file says of it. The place of its name is its own header's, where
/// it has one.
fn add_tenant(file: &mut FileTable, name: &str, first: Span, parts: TenantTable) {
    let tenants = &mut file.tenant.value;
    match tenants.binary_search_by(|(known, _)| (*known.value).cmp(name)) {
        Ok(at) => {
            if let Some((_, table)) = tenants.get_mut(at) {
                let TenantTable { network, group, set, policy, endpoint, .. } = parts;
                let table = Arc::make_mut(table);
                (table.network, table.group, table.set) = (network, group, set);
                (table.policy, table.endpoint) = (policy, endpoint);
            }
        }
        Err(at) => tenants.insert(at, (At { value: name.into(), span: first }, Arc::new(parts))),
    }
}

/// Adds the tables that were kept to those that are new, all by name; none where one is there twice.
fn put_together<T>(new: &mut Named<T>, before: &Named<T>, is_kept: impl Fn(Span) -> bool) -> Option<()> {
    let mut all: Named<T> = Vec::with_capacity(before.len() + new.len());
    all.extend(before.iter().filter(|(name, _)| is_kept(name.span)).cloned());
    if !new.is_empty() {
        all.append(new);
        all.sort_by(|(a, _), (b, _)| a.value.cmp(&b.value));
    }
    *new = all;
    new.is_sorted_by(|(a, _), (b, _)| a.value < b.value).then_some(())
}

/// The numbers of parts whose text is known.
fn find_known(text: &str, parts: &[Cut<'_>], known: Option<&Parts>) -> Vec<Option<u32>> {
    let Some(known) = known else { return vec![None; parts.len()] };
    // In one piece, where it is faster to compare with than part by part
    let before = known.sources.first().map_or("", |source| source.text());
    let text_at = |at: usize| {
        let range = known.order.get(at).map(|(_, range)| range.clone())?;
        before.get(range)
    };
    // Nearly all stand in the order in which they stood.
    let mut next = 0;
    let mut by_text: Option<HashMap<&str, usize, RandomState>> = None;
    let find = |part: &Cut<'_>| {
        let text = text.get(part.range.clone()).unwrap_or_default();
        let at = if text_at(next) == Some(text) {
            Some(next)
        } else {
            let all = || (0..known.order.len()).filter_map(|at| Some((text_at(at)?, at)));
            by_text.get_or_insert_with(|| all().collect()).get(text).copied()
        };
        next = at.map_or(next, |at| at + 1);
        at.and_then(|at| known.order.get(at)).map(|(number, _)| *number)
    };
    parts.iter().map(find).collect()
}

/// Cuts a text, unless something about it is unusual.
fn cut(text: &str) -> Option<Pieces<'_>> {
    let mut pieces = Pieces::default();
    // The part that is being looked at, if it is one, and where it began
    let (mut part, mut begun) = (None, 0);
    let (mut at, mut lines) = (0, 0);
    for whole in text.split_inclusive('\n') {
        if whole.trim_start_matches([' ', '\t']).starts_with('[') {
            let next = match (line(whole)?, part) {
                (Line::Inside(of), Some((header, _))) if of == header => part,
                (Line::Inside(_), _) => return None,
                (Line::Other, _) => None,
                (Line::First(header), _) => Some((header, lines)),
            };
            if next != part {
                pieces.add(part, begun..at);
                (part, begun) = (next, at);
            }
        }
        at += whole.len();
        lines += 1;
    }
    pieces.add(part, begun..at);
    (!pieces.parts.is_empty()).then_some(pieces)
}

impl<'t> Pieces<'t> {
    fn add(&mut self, part: Option<(Header<'t>, u32)>, range: Range<usize>) {
        match part {
            _ if range.is_empty() => {}
            Some((header, lines)) => self.parts.push(Cut { header, range, lines }),
            None => self.rest.push(range),
        }
    }
}

/// What a line is that begins with a bracket; none for one that is of a part and not written as usual.
fn line(line: &str) -> Option<Line<'_>> {
    let line = line.trim_end();
    let list = line.strip_prefix("[[").and_then(|line| line.strip_suffix("]]"));
    let path = list.or_else(|| line.strip_prefix('[')?.strip_suffix(']'));
    let Some(path) = path.and_then(|path| path.strip_prefix("tenant.")) else { return Some(Line::Other) };
    let mut names = path.split('.');
    let (Some(tenant), Some(kind), Some(name)) = (names.next(), names.next(), names.next()) else {
        return Some(Line::Other);
    };
    let kind = match kind {
        "network" => Kind::Network,
        "group" => Kind::Group,
        "set" => Kind::Set,
        "policy" => Kind::Policy,
        "endpoint" => Kind::Endpoint,
        _ => return None,
    };
    (is_name(tenant) && is_name(name)).then_some(())?;
    let header = Header { tenant, kind, name };
    match names.next() {
        None if list.is_some() => None,
        None => Some(Line::First(header)),
        Some(_) => Some(Line::Inside(header)),
    }
}

/// Reads a part, which has to be one without anything else; none where anything about it is wrong.
fn read_part(source: &Arc<Source>, number: u32, header: Header<'_>, into: &mut TenantTable) -> Option<()> {
    let parsed = DeTable::parse(source.text()).ok()?;
    let (_, _, tenants) = only_table(parsed.get_ref())?;
    let (_, _, kinds) = only_table(tenants)?;
    let (_, _, named) = only_table(kinds)?;
    let (name, span, table) = only_table(named)?;
    (name == header.name).then_some(())?;
    let at = At { value: name.into(), span: span.of(number) };
    let mut reader = Reader::new(vec![source.clone()]);
    let reader = &mut reader;
    match header.kind {
        Kind::Network => into.network.value.push((at, read_table(table, span, number, reader)?)),
        Kind::Group => into.group.value.push((at, read_table(table, span, number, reader)?)),
        Kind::Set => into.set.value.push((at, read_table(table, span, number, reader)?)),
        Kind::Policy => into.policy.value.push((at, read_table(table, span, number, reader)?)),
        Kind::Endpoint => into.endpoint.value.push((at, read_table(table, span, number, reader)?)),
    }
    Some(())
}

/// The only key of a table, where that is a table.
fn only_table<'t>(table: &'t DeTable<'_>) -> Option<(&'t str, Span, &'t DeTable<'t>)> {
    let mut keys = table.iter();
    let (key, value) = keys.next()?;
    let DeValue::Table(table) = value.get_ref() else { return None };
    keys.next().is_none().then(|| (key.get_ref().as_ref(), key.span().into(), table))
}

fn read_table<T: Table>(table: &DeTable<'_>, at: Span, number: u32, reader: &mut Reader) -> Option<Arc<T>> {
    let mut table = T::read_table(table, at, reader);
    reader.found.is_empty().then_some(())?;
    table.table_spans(&mut |span| *span = span.of(number));
    Some(Arc::new(table))
}

/// Reads what lies between the parts, or none where anything about it is wrong.
fn read_rest(source: &Arc<Source>, pieces: &[Range<usize>], included: bool) -> Option<FileTable> {
    let pieces: Vec<(usize, &str)> = pieces
        .iter()
        .map(|piece| (piece.start, source.text().get(piece.clone()).unwrap_or_default()))
        .collect();
    // A string that begins in one must not end in another.
    let is_toml = |(_, piece): &(usize, &str)| DeTable::parse(piece).is_ok();
    (pieces.len() < 2 || pieces.iter().all(is_toml)).then_some(())?;
    let joined: String = pieces.iter().map(|(_, piece)| *piece).collect();
    let parsed = DeTable::parse(&joined).ok()?;
    leaves_tenants_open(parsed.get_ref(), &joined).then_some(())?;
    // Nothing is reported of this: it would be in another place.
    let mut reader = Reader::new(vec![source.clone()]);
    let mut file = FileTable::read_table(parsed.get_ref(), Span::default(), &mut reader);
    if included {
        refuse_misplaced(parsed.get_ref(), &mut reader);
    }
    reader.found.is_empty().then_some(())?;
    let place = |at: usize| {
        let mut before = 0;
        for (start, piece) in &pieces {
            if at < before + piece.len() {
                return start + (at - before);
            }
            before += piece.len();
        }
        source.text().len()
    };
    file.table_spans(&mut |span| {
        let Range { start, end } = span.range();
        if start < end {
            *span = (place(start)..place(end - 1) + 1).into();
        }
    });
    Some(file)
}

/// Whether tables may be added to all tenants by headers of their own: nothing but `[tenant.T]` says anything of them here.
fn leaves_tenants_open(root: &DeTable<'_>, text: &str) -> bool {
    let Some((key, tenants)) = root.get_key_value("tenant") else { return true };
    let is_header = |start: usize, before: &str| {
        let line = start.checked_sub(before.len());
        line.is_some_and(|line| {
            text.get(line..start) == Some(before)
                && (line == 0 || text.as_bytes().get(line - 1) == Some(&b'\n'))
        })
    };
    let DeValue::Table(tenants) = tenants.get_ref() else { return false };
    const KINDS: [&str; 5] = ["network", "group", "set", "policy", "endpoint"];
    is_header(key.span().start, "[")
        && tenants.iter().all(|(name, tenant)| {
            let closes = text.as_bytes().get(name.span().end) == Some(&b']');
            let DeValue::Table(tenant) = tenant.get_ref() else { return false };
            closes
                && is_header(name.span().start, TENANT)
                && tenant.keys().all(|key| !KINDS.contains(&key.get_ref().as_ref()))
        })
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
        let (web, values) = match number % 5 {
            0 => (", \"web\"", "variables = { PORTS = [81, 82] }\n"),
            1 => (", \"web\"", ""),
            _ => ("", ""),
        };
        format!(
            "[tenant.{tenant}.endpoint.{name}]\nnetwork = \"lan\"\nhost = \"a\"\nport = \"{tenant}-{name}\"\n\
             mac = \"02:00:00:00:{:02x}:{:02x}\"\naddresses = [\n  \"10.1.{}.{}\", # ü\n]\ngroups = [\"all\"{web}]\n{values}{pair}",
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
            let _ = write!(
                text,
                "[tenant.{tenant}.group.web]\nvariables = {{ PORTS = [80] }}\ninclude = [\"all\"]\n\
                 [[tenant.{tenant}.group.web.ingress]]\nproto = \"tcp\"\nports = \"$PORTS\"\nfrom = \"any\"\n"
            );
            (0..120).for_each(|number| text += &endpoint(tenant, &format!("vm{number:03}"), number));
        }
        assert!(text.len() > WORTH_IT);
        text
    }

    fn read(text: &str, known: Option<&FileContent>) -> FileContent {
        check::file(Source::new("a.toml", text), false, known)
    }

    /// The new text, whether it was read in parts, and whether a table is the one that was read before. It says what it says without
    /// anything known, and what it says as a whole.
    fn is_read_in_parts(old: &str, new: &str) -> bool {
        let known = read(old, None);
        let source = Source::new("a.toml", new);
        let [again, first] = [Some(&known), None].map(|known| read(new, known));
        let whole = check::whole_file(source.clone(), false, None);
        let [again, first, whole] = [again, first, whole].map(|content| said(&content));
        similar(&again, &first);
        similar(&first, &whole);
        Parts::read(&source, false, None).is_some()
    }

    #[track_caller]
    fn similar(a: &str, b: &str) {
        let same = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
        let shown = |text: &str| text.chars().skip(same.saturating_sub(200)).take(400).collect::<String>();
        assert!(a == b, "one is\n{}\nthe other is\n{}", shown(a), shown(b));
    }

    /// Everything that a file says and where, and nothing of how it was read.
    fn said(content: &FileContent) -> String {
        let FileContent { source: _, include, overlay, limits, kernel_tables, site, .. } = content;
        let FileContent { site_names, quotas, hosts, tenants, found, whole, .. } = content;
        format!(
            "{include:?} {overlay:?} {limits:?} {kernel_tables:?} {site:?} {site_names:?} {quotas:?} {hosts:?} {tenants:?} {found:?} \
             {whole:?}"
        )
    }

    #[test]
    fn what_is_usual_is_read_in_parts() {
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
            ("a group comes", base.replace(&all, &format!("{all}{}", group("acme", "db")))),
            ("a variable's value", base.replacen("PORTS = [81, 82]", "PORTS = [83]", 1)),
            ("values of a group", base.replace("PORTS = [80]", "PORTS = [81]")),
            ("a policy comes", base.replace(&one, &format!("{one}{}", policy("pass")))),
            (
                "a set comes",
                base.replace(&one, &format!("{one}[tenant.acme.set.s]\naddresses = [\"10.9.0.0/16\"]\n")),
            ),
            ("a comment", base.replace(&one, &format!("# one\n{one}"))),
            ("nothing", base.clone()),
            ("another tenant's first", base.replace(&one, &endpoint("gamma", "vm1", 3))),
            (
                "a table of its own",
                base.replace(&one, &format!("{one}[host.b]\nvtep = \"192.0.2.2\"\ndevice = \"e\"\n")),
            ),
            (
                "a policy of the site",
                base.replace(
                    &one,
                    &format!(
                        "{one}{}",
                        policy("pass").replace("tenant.acme.", "").replace("\"tenant\"", "\"site\"")
                    ),
                ),
            ),
            ("everywhere", base.replace("ü", "u")),
            ("a host comes behind all", format!("{base}[host.b]\nvtep = \"192.0.2.2\"\ndevice = \"e\"\n")),
            ("a mode comes between", base.replace(&one, &format!("[tenant.acme]\nmode = \"audit\"\n{one}"))),
            ("a tenant comes first", format!("[tenant.acme]\n{base}")),
        ] {
            assert!(is_read_in_parts(&base, &new), "{what}");
        }
    }

    #[test]
    fn what_only_the_whole_tells_is_read_whole() {
        let base = base();
        let one = endpoint("acme", "vm050", 50);
        for (what, change) in [
            ("there already", one.replace("vm050", "vm060")),
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
            (
                "a part of a policy",
                format!("{one}[[tenant.acme.policy.p.egress]]\naction = \"deny\"\nto = \"any\"\n"),
            ),
            ("another table", format!("{one}[ tenant . acme ]\ndescription = \"x\"\n")),
            ("nothing of it", "[tenant.acme.endpoint.vm050]\n".to_owned()),
            ("an unknown key", one.replace("port =", "prot =")),
        ] {
            assert!(!is_read_in_parts(&base, &base.replace(&one, &change)), "{what}");
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
        assert!(!is_read_in_parts(&string("\"\""), &string("\"\"\"")));
        assert!(is_read_in_parts(&string("\"\"\""), &string("\"\"")));
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
                let whole = check::whole_file(Source::new("a.toml", &new), false, None);
                prop_assert!(said(&with) == said(&without), "{}", new);
                prop_assert!(said(&with) == said(&whole), "{}", new);
                known = with;
            }
        }
    }
}
