//! Edits the text of a manifest: sets single fields, and keeps comments, order and all other fields.

use std::collections::BTreeMap;
use std::fmt;

use onnx_export::text::{cut, shown};
use toml_edit::{ArrayOfTables, DocumentMut, Item, Table, TableLike, Value};

use super::ManifestError;

/// Maximum number of characters of a value that a [`Difference`] shows.
const SHOWN: usize = 60;

/// The text of a manifest, as it was written by a user or by [`ModelManifest::to_toml`].
///
/// [`ModelManifest::to_toml`]: super::ModelManifest::to_toml
#[derive(Debug, Clone)]
pub struct ManifestText(DocumentMut);

/// A field that has different values in two manifests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Dotted path of the field below the compared key, such as `resize.size`. Empty if the key itself
    /// has no fields.
    pub field: String,
    /// Value of the field in the first manifest, as TOML. `None` if the field is absent.
    pub first: Option<String>,
    /// Value of the field in the second manifest, as TOML. `None` if the field is absent.
    pub second: Option<String>,
}

impl ManifestText {
    /// Parses the text of a manifest. Its fields are not checked.
    ///
    /// # Errors
    /// [`ManifestError::Text`] if the text is not TOML.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        Ok(Self(text.parse()?))
    }

    /// Returns the keys at the top level.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.as_table().iter().map(|(key, _)| key)
    }

    /// Returns whether the key `key` at the top level has the string `value`.
    pub fn is_text(&self, key: &str, value: &str) -> bool {
        self.0.get(key).and_then(Item::as_str) == Some(value)
    }

    /// Sets the field `path` to its value in `source`, or removes the field if `source` does not have
    /// it. Comments, and the order and the form of fields that both manifests have, are kept.
    pub fn copy(&mut self, path: &[&str], source: &Self) {
        copy(self.0.as_table_mut(), path, Some(source.0.as_table()));
    }

    /// Returns the fields at and below `path` whose values differ between this manifest and `other`,
    /// in alphabetical order. An integer equals a float of the same value.
    pub fn differences(&self, path: &[&str], other: &Self) -> Vec<Difference> {
        let (first, second) = (self.leaves(path), other.leaves(path));
        let fields = first
            .keys()
            .chain(second.keys().filter(|key| !first.contains_key(*key)));
        let mut fields: Vec<&String> = fields.collect();
        fields.sort();
        let differing = fields.into_iter().filter_map(|field| {
            let (one, other) = (first.get(field), second.get(field));
            let same = matches!((one, other), (Some(one), Some(other)) if equal(one, other));
            (!same).then(|| Difference {
                field: field.clone(),
                first: one.map(show),
                second: other.map(show),
            })
        });
        differing.collect()
    }

    /// Returns the values below `path` that are not tables, by their dotted path below `path`.
    fn leaves(&self, path: &[&str]) -> BTreeMap<String, Value> {
        let mut leaves = BTreeMap::new();
        let root = self.0.as_item();
        let item = path.iter().try_fold(root, |item, key| item.get(key));
        if let Some(item) = item {
            collect(item, String::new(), &mut leaves);
        }
        leaves
    }
}

impl fmt::Display for ManifestText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Difference {
    /// Writes the field, its first value, and its second value in parentheses.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let none = || "none".to_owned();
        let (first, second) = (self.first.clone(), self.second.clone());
        if !self.field.is_empty() {
            write!(f, "{} = ", shown(&self.field))?;
        }
        let (first, second) = (first.unwrap_or_else(none), second.unwrap_or_else(none));
        write!(f, "{first} (new: {second})")
    }
}

/// Sets the field `path` of `table` to its value in `source`, or removes the field if `source` does
/// not have it.
fn copy(table: &mut dyn TableLike, path: &[&str], source: Option<&dyn TableLike>) {
    let [key, rest @ ..] = path else { return };
    let new = source.and_then(|source| source.get(key));
    if rest.is_empty() {
        return put(table, key, new);
    }
    let new = new.and_then(Item::as_table_like);
    if new.is_some() && table.get(key).is_none() {
        let mut outer = Table::new();
        outer.set_implicit(true);
        table.insert(key, Item::Table(outer));
    }
    if let Some(inner) = table.get_mut(key).and_then(Item::as_table_like_mut) {
        copy(inner, rest, new);
    }
}

/// Sets `key` of `table` to the value `new`, or removes the key if `new` is `None`.
fn put(table: &mut dyn TableLike, key: &str, new: Option<&Item>) {
    let Some(new) = new else {
        table.remove(key);
        return;
    };
    if let Some(old) = table.get_mut(key) {
        assign(old, new);
    } else {
        table.insert(key, unplaced(new.clone()));
    }
}

/// Gives `old` the value of `new` and keeps its comments and, where possible, its form.
fn assign(old: &mut Item, new: &Item) {
    match old {
        Item::Table(table) if let Some(new) = new.as_table_like() => assign_table(table, new),
        Item::ArrayOfTables(list)
            if let Some(new) = new.as_array_of_tables()
                && list.len() == new.len() =>
        {
            assign_list(list, new);
        }
        Item::Value(old) if let Ok(new) = new.clone().into_value() => assign_value(old, new),
        old => *old = unplaced(new.clone()),
    }
}

fn assign_list(old: &mut ArrayOfTables, new: &ArrayOfTables) {
    for (old, new) in old.iter_mut().zip(new.iter()) {
        assign_table(old, new);
    }
}

fn assign_table(old: &mut dyn TableLike, new: &dyn TableLike) {
    let gone = old.iter().map(|(key, _)| key.to_owned());
    let gone: Vec<String> = gone.filter(|key| !new.contains_key(key)).collect();
    for key in gone {
        old.remove(&key);
    }
    for (key, item) in new.iter() {
        put(old, key, Some(item));
    }
}

fn assign_value(old: &mut Value, new: Value) {
    match (&mut *old, new) {
        (Value::InlineTable(old), Value::InlineTable(new)) => assign_table(old, &new),
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            for (old, new) in old.iter_mut().zip(new) {
                assign_value(old, new);
            }
        }
        (same, new) if equal(same, &new) => {}
        (_, mut new) => {
            *new.decor_mut() = old.decor().clone();
            *old = new;
        }
    }
}

/// Returns `item` without the positions of its tables in the document that it was parsed from, so
/// that the tables appear where they are inserted.
fn unplaced(mut item: Item) -> Item {
    match &mut item {
        Item::Table(table) => unplace(table),
        Item::ArrayOfTables(list) => list.iter_mut().for_each(unplace),
        Item::Value(_) | Item::None => {}
    }
    item
}

fn unplace(table: &mut Table) {
    table.set_position(None);
    for (_, item) in table.iter_mut() {
        *item = unplaced(std::mem::take(item));
    }
}

/// Adds the values in `item` that are not tables to `leaves`. `path` is the dotted path of `item`.
fn collect(item: &Item, path: String, leaves: &mut BTreeMap<String, Value>) {
    if let Some(table) = item.as_table_like() {
        for (key, item) in table.iter() {
            let path = if path.is_empty() {
                key.to_owned()
            } else {
                format!("{path}.{key}")
            };
            collect(item, path, leaves);
        }
    } else if let Ok(value) = item.clone().into_value() {
        leaves.insert(path, value);
    }
}

/// Returns whether two values are equal, whatever their form in the text.
fn equal(one: &Value, other: &Value) -> bool {
    let number = |value: &Value| value.as_float().or(value.as_integer().map(|n| n as f64));
    match (one, other) {
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| equal(one, other))
        }
        (Value::InlineTable(one), Value::InlineTable(other)) => {
            let same = |(key, value)| other.get(key).is_some_and(|other| equal(value, other));
            one.len() == other.len() && one.iter().all(same)
        }
        (Value::String(one), Value::String(other)) => one.value() == other.value(),
        (Value::Boolean(one), Value::Boolean(other)) => one.value() == other.value(),
        (Value::Datetime(one), Value::Datetime(other)) => one.value() == other.value(),
        _ => matches!((number(one), number(other)), (Some(one), Some(other)) if one == other),
    }
}

/// Returns a value as TOML on one line, without comments, cut to [`SHOWN`] characters.
fn show(value: &Value) -> String {
    let text = one_line(value);
    let kept = cut(&text, SHOWN);
    let end = if kept.len() < text.len() { "..." } else { "" };
    format!("{kept}{end}")
}

fn one_line(value: &Value) -> String {
    match value {
        Value::Array(list) => {
            let items: Vec<String> = list.iter().map(one_line).collect();
            format!("[{}]", items.join(", "))
        }
        Value::InlineTable(table) => {
            let fields = table
                .iter()
                .map(|(key, value)| format!("{key} = {}", one_line(value)));
            format!("{{ {} }}", fields.collect::<Vec<_>>().join(", "))
        }
        Value::String(text) => format!("{:?}", text.value()),
        other => other.clone().decorated("", "").to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "# Birds of the garden.\nname = \"birds\" # a name\nlabels = \"labels.txt\"\n\n\
        # Calibrated lens.\n[preprocess]\ncrop = 192 # tried 224\nmean = [0.5, 0.5, 0.5]\n\
        resize = { mode = \"short_side\", size = 256 }\n\n[[stages]]\nrole = \"network\"\nfile = \"a.onnx\"\n\n\
        [variants.320]\nresize = { mode = \"short_side\", size = 320 }\n\n# Last.\n[provenance]\ncheckpoint = \"a.pth\"\n";
    const NEW: &str = "name = \"other\"\nlabels = \"labels.txt\"\n[[stages]]\nrole = \"network\"\nfile = \"b.onnx\"\n\
        sha256 = \"00\"\n[preprocess]\ncrop = 224\nmean = [0.5, 0.5, 0.5]\n[preprocess.resize]\nmode = \"short_side\"\n\
        size = 232\n[variants.int8]\nprecision = \"int8\"\n[[variants.int8.stages]]\nfile = \"c.onnx\"\n";

    fn edited(old: &str, path: &[&str], new: &str) -> String {
        let mut text = ManifestText::parse(old).unwrap();
        text.copy(path, &ManifestText::parse(new).unwrap());
        text.to_string()
    }

    #[test]
    fn a_field_is_set_and_all_others_are_kept() {
        let inline =
            "stages = [ { role = \"network\", file = \"a.onnx\" } ] # one\n[variants]\na = 1\n";
        let int8 = "\n[variants.int8]\nprecision = \"int8\"\n[[variants.int8.stages]]\nfile = \"c.onnx\"\n";
        let after_320 = "size = 320 }\n\n".to_owned();
        let cases: [(&str, &[&str], &str, String); 8] = [
            (OLD, &["labels"], NEW, OLD.to_owned()),
            (
                OLD,
                &["name"],
                NEW,
                OLD.replace("\"birds\" #", "\"other\" #"),
            ),
            (
                OLD,
                &["preprocess"],
                NEW,
                OLD.replace("192 #", "224 #").replace("256", "232"),
            ),
            (
                OLD,
                &["stages"],
                NEW,
                OLD.replace("\"a.onnx\"\n", "\"b.onnx\"\nsha256 = \"00\"\n"),
            ),
            (
                OLD,
                &["provenance"],
                NEW,
                OLD.replace("\n# Last.\n[provenance]\ncheckpoint = \"a.pth\"\n", ""),
            ),
            (
                inline,
                &["stages"],
                NEW,
                inline.replace("\"a.onnx\" }", "\"b.onnx\" , sha256 = \"00\" }"),
            ),
            (
                OLD,
                &["variants", "int8"],
                NEW,
                OLD.replace(
                    &after_320,
                    &format!("{}{}\n", after_320.trim_end_matches('\n'), int8),
                ),
            ),
            (
                "name = \"a\"\n",
                &["variants", "int8"],
                NEW,
                format!("name = \"a\"\n{}", &int8[1..]),
            ),
        ];
        for (old, path, new, expected) in cases {
            let squeezed = |text: &str| text.replace("\n\n", "\n").replace(" ,", ",");
            let got = edited(old, path, new);
            assert_eq!(squeezed(&got), squeezed(&expected), "{path:?}");
            let table: toml::Table = got.parse().unwrap();
            assert!(!table.is_empty());
        }
    }

    #[test]
    fn differing_fields_are_listed() {
        let parse = |text: &str| ManifestText::parse(text).unwrap();
        let shown = |old: &str, new: &str, key: &str| {
            let found = parse(old).differences(&[key], &parse(new));
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            shown(OLD, NEW, "preprocess"),
            ["crop = 192 (new: 224)", "resize.size = 256 (new: 232)"]
        );
        assert_eq!(shown(OLD, NEW, "name"), ["\"birds\" (new: \"other\")"]);
        assert_eq!(shown(OLD, NEW, "labels"), [""; 0]);
        assert_eq!(
            shown("[a]\nb = [\n 10, # ten\n 2.5]", "[a]\nc = 1", "a"),
            ["b = [10, 2.5] (new: none)", "c = none (new: 1)"]
        );
        assert_eq!(shown("a = [1, 2]", "a = [1.0, 2.0]", "a"), [""; 0]);
        let long = format!("a = \"{}\"", "x".repeat(200));
        assert!(shown(&long, "", "a")[0].len() < 90);
    }
}
