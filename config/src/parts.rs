//! A large file in parts: each table that stands by itself is read by itself, and again only where its text changed.
//!
//! A tenant of ten thousand endpoints is a file of ten thousand tables `[tenant.T.KIND.NAME]`, and a change touches one or
//! two of them. The file is cut where such a table begins and where it ends; tables of it that stand elsewhere are read with it, and what
//! lies between is read together. Every piece is TOML without the others, so that no string and no list reaches from one into the next. Wherever that is in
//! doubt, or anything is wrong, the file is read whole, which is what finds the words for it.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap, HashSet},
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
    /// The parts in the order in which they are written
    order: Vec<Placed>,
    /// What lies between them
    rest: Vec<Range<usize>>,
    /// By tenant: where its name is written first in a part
    firsts: BTreeMap<Arc<str>, Span>,
}

/// Where a part stands.
#[derive(Clone, Debug)]
struct Placed {
    /// Its number
    number: u32,
    first: Piece,
    /// Where it is in several pieces: those behind the first
    others: Box<[Piece]>,
}

impl Placed {
    /// Where it is in the file, unless it is in several pieces
    fn whole(&self) -> Option<&Range<usize>> {
        self.others.is_empty().then_some(&self.first.range)
    }

    /// Says of what was read of it where it is.
    fn say_where(&self, sources: &Sources) -> Option<()> {
        let pieces = std::iter::once(&self.first).chain(&self.others);
        let before = pieces.map(|piece| (piece.lines, piece.range.start as u32));
        sources.get(self.number as usize)?.moved(before);
        Some(())
    }
}

/// The kinds of tables that are parts
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Network,
    Group,
    Set,
    Policy,
    Endpoint,
    Profile,
}

/// The line `[tenant.T.KIND.NAME]`
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
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
    /// In one piece, mostly; tables of it may stand elsewhere.
    pieces: Vec<Piece>,
    /// What that is together
    text: Cow<'t, str>,
}

#[derive(Clone, Debug)]
struct Piece {
    range: Range<usize>,
    /// So many lines are before it.
    lines: u32,
}

impl Cut<'_> {
    /// Where its pieces begin in its text
    fn piece_starts(&self) -> impl Iterator<Item = u32> {
        let mut start = 0;
        self.pieces.iter().map(move |piece| {
            let this = start;
            start += piece.range.len() as u32;
            this
        })
    }
}

/// A text that was cut.
#[derive(Default)]
struct Pieces<'t> {
    parts: Vec<(Header<'t>, Piece)>,
    rest: Vec<Range<usize>>,
    /// Parts of which tables stand elsewhere than behind their own
    strays: HashSet<Header<'t>, RandomState>,
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
        if let Some(parts) = known.and_then(|known| known.with_change(source, included)) {
            return Some(parts);
        }
        let Pieces { parts, rest, strays } = cut(text)?;
        let parts = put_strays_in(text, parts, &strays)?;
        // Sources that nobody has any more are not kept for ever.
        let known = known.filter(|known| known.sources.len() <= 1024 + 4 * parts.len());
        let mut file = read_rest(source, &rest, included)?;
        let numbers = find_known(&parts, known);
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
                None => {
                    let ranges = part.pieces.iter().map(|piece| piece.range.clone());
                    add_source(source.part(ranges)?, &mut sources, free.next())
                }
            };
            let (first, others) = part.pieces.split_first()?;
            order.push(Placed { number, first: first.clone(), others: others.into() });
            let Header { tenant, .. } = part.header;
            let in_parts = tenants.entry(tenant).or_insert_with(|| {
                let start = TENANT.len() + usize::from(part.text.starts_with("[["));
                let name = Span::from(start..start + tenant.len()).of(number);
                InParts { name, table: TenantTable::default() }
            });
            if known.is_none() {
                read_part(sources.get(number as usize)?, number, part.header, &mut in_parts.table)?;
            }
        }
        let firsts = tenants.iter().map(|(name, in_parts)| ((*name).into(), in_parts.name)).collect();
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
            put_together(&mut table.profile.value, &before.profile.value, is_kept)?;
            add_tenant(&mut file, name, first, table);
        }
        order.iter().try_for_each(|placed| placed.say_where(&sources))?;
        Some(Self { file, sources: Arc::new(sources), order, rest, firsts })
    }

    /// The same where the text of one part is another one and nothing else has changed; none where more may have.
    fn with_change(&self, source: &Arc<Source>, included: bool) -> Option<Self> {
        let (before, text) = (self.sources.first()?.text(), source.text());
        let (old, new) = differing(before.as_bytes(), text.as_bytes());
        let at = self.order.partition_point(|placed| placed.first.range.start < old.start).checked_sub(1)?;
        let placed = self.order.get(at)?;
        let was = placed.whole().filter(|was| old.end <= was.end)?;
        let shifted = |at: usize| if at >= old.end { at - old.end + new.end } else { at };
        let is = was.start..shifted(was.end);
        let (gone, come) = (before.get(was.clone())?, text.get(is.clone())?);
        // What follows is cut off where it was.
        let Pieces { parts, rest, strays } = cut(come)?;
        let [(header, _)] = parts[..] else { return None };
        let is_one = rest.is_empty() && strays.is_empty() && is_headed(gone, header);
        (is_one && (come.ends_with('\n') || is.end == text.len())).then_some(())?;

        let rest: Vec<_> = self.rest.iter().map(|rest| shifted(rest.start)..shifted(rest.end)).collect();
        let mut file = read_rest(source, &rest, included)?;
        let mut sources = self.sources.to_vec();
        *sources.first_mut()? = source.clone();
        let part = sources.get_mut(placed.number as usize)?;
        *part = source.part(std::iter::once(is.clone()))?;
        let mut changed = TenantTable::default();
        read_part(part, placed.number, header, &mut changed)?;
        for (name, first) in &self.firsts {
            let before = tenant_of(&self.file, name)?;
            let mut table = TenantTable {
                network: before.network.clone(),
                group: before.group.clone(),
                set: before.set.clone(),
                policy: before.policy.clone(),
                endpoint: before.endpoint.clone(),
                profile: before.profile.clone(),
                ..TenantTable::default()
            };
            if **name == *header.tenant {
                replace(&mut table.network.value, &mut changed.network.value)?;
                replace(&mut table.group.value, &mut changed.group.value)?;
                replace(&mut table.set.value, &mut changed.set.value)?;
                replace(&mut table.policy.value, &mut changed.policy.value)?;
                replace(&mut table.endpoint.value, &mut changed.endpoint.value)?;
                replace(&mut table.profile.value, &mut changed.profile.value)?;
            }
            add_tenant(&mut file, name, *first, table);
        }
        let lines = [gone, come].map(|text| text.bytes().filter(|byte| *byte == b'\n').count() as u32);
        let moved = |piece: &Piece| Piece {
            range: shifted(piece.range.start)..shifted(piece.range.end),
            lines: if piece.range.start >= old.end { piece.lines - lines[0] + lines[1] } else { piece.lines },
        };
        let all = self.order.iter().map(|placed| Placed {
            number: placed.number,
            first: moved(&placed.first),
            others: placed.others.iter().map(moved).collect(),
        });
        let order: Vec<Placed> = all.collect();
        let stays = was.end == is.end && lines[0] == lines[1];
        let may_have_moved = |(place, placed): &(usize, &Placed)| {
            *place == at || !stays && (*place > at || !placed.others.is_empty())
        };
        order.iter().enumerate().filter(may_have_moved).try_for_each(|(_, it)| it.say_where(&sources))?;
        Some(Self { file, sources: Arc::new(sources), order, rest, firsts: self.firsts.clone() })
    }
}

/// Where two texts differ, each from the first byte to the last.
pub(super) fn differing(a: &[u8], b: &[u8]) -> (Range<usize>, Range<usize>) {
    const PIECE: usize = 4096;
    let pieces = a.chunks(PIECE).zip(b.chunks(PIECE)).take_while(|(a, b)| a == b).count() * PIECE;
    let start = pieces.min(a.len()).min(b.len());
    let bytes = |a: &[u8], b: &[u8]| a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let start = start + bytes(a.get(start..).unwrap_or_default(), b.get(start..).unwrap_or_default());
    let (behind_a, behind_b) = (a.get(start..).unwrap_or_default(), b.get(start..).unwrap_or_default());
    let same = behind_a.rchunks(PIECE).zip(behind_b.rchunks(PIECE)).take_while(|(a, b)| a == b).count();
    let same = (same * PIECE).min(behind_a.len()).min(behind_b.len());
    let left = |of: &[u8]| of.len() - same;
    let (rest_a, rest_b) = (behind_a[..left(behind_a)].iter().rev(), behind_b[..left(behind_b)].iter().rev());
    let same = same + rest_a.zip(rest_b).take_while(|(a, b)| a == b).count();
    (start..a.len() - same, start..b.len() - same)
}

/// Whether a part begins with this header.
fn is_headed(part: &str, header: Header<'_>) -> bool {
    let first = part.split_once('\n').map_or(part, |(first, _)| first);
    matches!(line(first), Some(Line::First(it)) if it == header)
}

/// Puts what is new in the place of what has its name.
fn replace<T>(all: &mut Named<T>, new: &mut Named<T>) -> Option<()> {
    for (name, table) in new.drain(..) {
        let at = all.binary_search_by(|(known, _)| known.value.cmp(&name.value)).ok()?;
        let (known, place) = all.get_mut(at)?;
        (known.span, *place) = (name.span, table);
    }
    Some(())
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
                let TenantTable { network, group, set, policy, endpoint, profile, .. } = parts;
                let table = Arc::make_mut(table);
                (table.network, table.group, table.set) = (network, group, set);
                (table.policy, table.endpoint, table.profile) = (policy, endpoint, profile);
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
fn find_known(parts: &[Cut<'_>], known: Option<&Parts>) -> Vec<Option<u32>> {
    let Some(known) = known else { return vec![None; parts.len()] };
    let before = known.sources.first().map_or("", |source| source.text());
    let text_at = |at: usize| {
        let placed = known.order.get(at)?;
        match placed.whole() {
            // In the file, which is faster to compare with than part by part
            Some(range) => before.get(range.clone()),
            None => known.sources.get(placed.number as usize).map(|source| source.text()),
        }
    };
    // Nearly all stand in the order in which they stood.
    let mut next = 0;
    let mut by_text: Option<HashMap<&str, usize, RandomState>> = None;
    let find = |part: &Cut<'_>| {
        let at = if text_at(next) == Some(&*part.text) {
            Some(next)
        } else {
            let all = || (0..known.order.len()).filter_map(|at| Some((text_at(at)?, at)));
            by_text.get_or_insert_with(|| all().collect()).get(&*part.text).copied()
        };
        next = at.map_or(next, |at| at + 1);
        let placed = at.and_then(|at| known.order.get(at))?;
        let source = || known.sources.get(placed.number as usize);
        let in_same_pieces = placed.whole().is_some() && part.pieces.len() == 1
            || source().is_some_and(|source| source.piece_starts().eq(part.piece_starts()));
        in_same_pieces.then_some(placed.number)
    };
    parts.iter().map(find).collect()
}

/// Cuts a text, unless something about it is unusual.
fn cut(text: &str) -> Option<Pieces<'_>> {
    let mut pieces = Pieces::default();
    // The part that is being looked at, if it is one, and where it began
    let (mut part, mut begun) = (None, 0);
    let (mut seen, mut lines) = (0, 0);
    for (bracket, _) in text.match_indices('[') {
        // Where a line begins with it, but for blanks
        let at = text.get(..bracket)?.trim_end_matches([' ', '\t']).len();
        let (ahead, behind) = text.split_at_checked(at)?;
        if !(ahead.is_empty() || ahead.ends_with('\n')) {
            continue;
        }
        let newlines = ahead.as_bytes().get(seen..)?.iter().filter(|byte| **byte == b'\n').count();
        (seen, lines) = (at, lines + newlines as u32);
        let whole = behind.split_once('\n').map_or(behind, |(line, _)| line);
        let next = match (line(whole)?, part) {
            (Line::Inside(of), Some((header, _))) if of == header => part,
            (Line::Inside(of), _) => {
                pieces.strays.insert(of);
                Some((of, lines))
            }
            (Line::Other, _) => None,
            (Line::First(header), _) => Some((header, lines)),
        };
        if next != part {
            pieces.add(part, begun..at);
            (part, begun) = (next, at);
        }
    }
    pieces.add(part, begun..text.len());
    (!pieces.parts.is_empty()).then_some(pieces)
}

impl<'t> Pieces<'t> {
    fn add(&mut self, part: Option<(Header<'t>, u32)>, range: Range<usize>) {
        match part {
            _ if range.is_empty() => {}
            Some((header, lines)) => self.parts.push((header, Piece { range, lines })),
            None => self.rest.push(range),
        }
    }
}

/// Puts the pieces of each part together.
fn put_strays_in<'t>(
    text: &'t str,
    pieces: Vec<(Header<'t>, Piece)>,
    strays: &HashSet<Header<'t>, RandomState>,
) -> Option<Vec<Cut<'t>>> {
    let mut places: HashMap<Header<'t>, usize, RandomState> = HashMap::default();
    let mut parts: Vec<Cut<'t>> = Vec::with_capacity(pieces.len());
    for (header, piece) in pieces {
        let of_it = text.get(piece.range.clone()).unwrap_or_default();
        if strays.contains(&header) {
            if let Some(part) = places.get(&header).and_then(|place| parts.get_mut(*place)) {
                part.pieces.push(piece);
                part.text.to_mut().push_str(of_it);
                continue;
            }
            places.insert(header, parts.len());
        }
        parts.push(Cut { header, pieces: vec![piece], text: of_it.into() });
    }
    // A string that begins in one must not end in another.
    let in_pieces = parts.iter().filter(|part| part.pieces.len() > 1).flat_map(|part| &part.pieces);
    let mut texts = in_pieces.map(|piece| text.get(piece.range.clone()).unwrap_or_default());
    let all_are_toml = texts.all(|piece| DeTable::parse(piece).is_ok());
    all_are_toml.then_some(parts)
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
        "profile" => Kind::Profile,
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
        Kind::Profile => into.profile.value.push((at, read_table(table, span, number, reader)?)),
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
    // Where each begins in what is joined, and in the file
    let mut joined_at = 0;
    let starts = pieces.iter().map(|(start, piece)| {
        let this = (joined_at, *start);
        joined_at += piece.len();
        this
    });
    let starts: Vec<(usize, usize)> = starts.collect();
    let place = |at: usize| {
        let behind = starts.partition_point(|(joined, _)| *joined <= at);
        let piece = behind.checked_sub(1).and_then(|last| starts.get(last));
        piece.map_or(at, |(joined, start)| start + (at - joined))
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
    const KINDS: [&str; 6] = ["network", "group", "set", "policy", "endpoint", "profile"];
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
mod tests;
