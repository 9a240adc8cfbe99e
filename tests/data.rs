//! From input files to a dataset: the same rows in any format give the same bytes, and wrong input a clear line.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

#[path = "common/kuairand.rs"]
mod kuairand;

use parquet::basic::{ConvertedType, Type as PhysicalType};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, FloatType, Int32Type, Int64Type};
use parquet::file::{properties::WriterProperties, writer::SerializedFileWriter};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tauten::config::Loaded;
use tauten::data::batch::{BatchBuilder, BatchLayout, Minibatch, RowSource, table_layouts};
use tauten::data::dataset::{Dataset, Split};
use tauten::data::encode::{Encoded, Encoding};
use tauten::data::input::{Block, Kind, Reader};
use tauten::data::prepare::prepare;
use tauten::report::progress::Progress;

/// A folder with a configuration and input files.
struct Place {
    folder: tempfile::TempDir,
    overrides: Vec<String>,
}

const CONFIG: &str = r#"
[data]
train = ["train.csv"]
valid = ["valid.csv"]
[features]
categorical = ["user", "item"]
numeric = ["age"]
"#;

const TRAIN: &str = "user,item,age,click,conversion\n\
                     u1,\"a,b\",1.5,1,0\n\
                     u2,,3.5,0,0\n\
                     u1,c,,1,1\n";

impl Place {
    /// The small configuration and its files, all well.
    fn new() -> Place {
        let place = Place { folder: tempfile::tempdir().unwrap(), overrides: Vec::new() };
        place.write("c.toml", CONFIG).write("train.csv", TRAIN).write("valid.csv", TRAIN);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> &Place {
        std::fs::write(self.path(name), content).unwrap();
        self
    }

    fn set(mut self, text: &str) -> Place {
        self.overrides.push(text.into());
        self
    }

    fn prepare(&self, out: &str) -> tauten::Result<Dataset> {
        prepare(&Loaded::read(&self.path("c.toml"), &self.overrides)?, &self.path(out), &Progress::new(true))
    }

    /// The error of preparing, which must be one line and leave nothing behind.
    fn error(&self) -> String {
        let error = self.prepare("out").unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        let left: Vec<_> = std::fs::read_dir(self.folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(!left.iter().any(|name| name.to_string_lossy().starts_with(".tauten")), "{left:?}");
        let text = error.to_string();
        assert!(!text.contains('\n'), "{text}");
        text.replace(&self.folder.path().display().to_string(), "DIR")
    }
}

/// Every file below `dir`, by its path.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                all.insert(path.strip_prefix(dir).unwrap().to_path_buf(), std::fs::read(&path).unwrap());
            }
        }
    }
    all
}

/// A split's rows: ids, numeric values, click and conversion of each.
fn rows(dataset: &Dataset, split: Split) -> Vec<(Vec<u32>, Vec<f32>, u8, u8)> {
    let rows = dataset.split(split);
    let numeric = dataset.encoding().numeric.len();
    let sizes = &dataset.manifest().vocabulary_sizes;
    let tables = table_layouts(&vec![4; sizes.len()], sizes, usize::MAX).unwrap();
    let offsets = tables[0].offsets.clone();
    let mut batch = Minibatch::default();
    let layout = BatchLayout { tables, numeric, mask: None };
    BatchBuilder::new(layout, false).fill(&*rows, &(0..rows.len()).collect::<Vec<_>>(), &mut batch).unwrap();
    (0..rows.len())
        .map(|row| {
            let ids = batch.tables[0].ids[row * sizes.len()..].iter().zip(&offsets).map(|(id, offset)| id - offset).collect();
            let labels = [2 * row, 2 * row + 1].map(|i| batch.labels[i] as u8);
            (ids, batch.numeric[row * numeric..][..numeric].to_vec(), labels[0], labels[1])
        })
        .collect()
}

/// A column of a Parquet file to be written; `None` is null.
enum Cells {
    Bool(Vec<Option<bool>>),
    Int32(Vec<Option<i32>>),
    Int64(Vec<Option<i64>>),
    Float(Vec<Option<f32>>),
    Double(Vec<Option<f64>>),
    Text(Vec<Option<String>>),
}

/// Writes a Parquet file of optional columns in row groups of `group` rows.
fn write_parquet(path: &Path, columns: &[(&str, Cells)], group: usize) {
    let fields: Vec<_> = columns
        .iter()
        .map(|(name, cells)| {
            let (physical, converted) = match cells {
                Cells::Bool(_) => (PhysicalType::BOOLEAN, ConvertedType::NONE),
                Cells::Int32(_) => (PhysicalType::INT32, ConvertedType::NONE),
                Cells::Int64(_) => (PhysicalType::INT64, ConvertedType::NONE),
                Cells::Float(_) => (PhysicalType::FLOAT, ConvertedType::NONE),
                Cells::Double(_) => (PhysicalType::DOUBLE, ConvertedType::NONE),
                Cells::Text(_) => (PhysicalType::BYTE_ARRAY, ConvertedType::UTF8),
            };
            let field = parquet::schema::types::Type::primitive_type_builder(name, physical).with_converted_type(converted);
            Arc::new(field.with_repetition(parquet::basic::Repetition::OPTIONAL).build().unwrap())
        })
        .collect();
    let schema = parquet::schema::types::Type::group_type_builder("rows").with_fields(fields).build().unwrap();
    let file = std::fs::File::create(path).unwrap();
    let properties = Arc::new(WriterProperties::builder().build());
    let mut writer = SerializedFileWriter::new(file, Arc::new(schema), properties).unwrap();
    let rows = match &columns[0].1 {
        Cells::Bool(c) => c.len(),
        Cells::Int32(c) => c.len(),
        Cells::Int64(c) => c.len(),
        Cells::Float(c) => c.len(),
        Cells::Double(c) => c.len(),
        Cells::Text(c) => c.len(),
    };
    for start in (0..rows).step_by(group) {
        let range = start..(start + group).min(rows);
        let mut out = writer.next_row_group().unwrap();
        for (_, cells) in columns {
            let mut column = out.next_column().unwrap().unwrap();
            macro_rules! put {
                ($kind:ty, $cells:expr, $value:expr) => {{
                    let levels: Vec<i16> = $cells[range.clone()].iter().map(|c| i16::from(c.is_some())).collect();
                    let values: Vec<_> = $cells[range.clone()].iter().flatten().map($value).collect();
                    column.typed::<$kind>().write_batch(&values, Some(&levels), None).unwrap();
                }};
            }
            match cells {
                Cells::Bool(c) => put!(BoolType, c, |v| *v),
                Cells::Int32(c) => put!(Int32Type, c, |v| *v),
                Cells::Int64(c) => put!(Int64Type, c, |v| *v),
                Cells::Float(c) => put!(FloatType, c, |v| *v),
                Cells::Double(c) => put!(DoubleType, c, |v| *v),
                Cells::Text(c) => put!(ByteArrayType, c, |v| ByteArray::from(v.as_str())),
            }
            column.close().unwrap();
        }
        out.close().unwrap();
    }
    writer.close().unwrap();
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn small_dataset() {
    let place = Place::new();
    let dataset = place.prepare("out").unwrap();
    // "u1" twice, so before "u2"; "a,b" and "c" once each, by bytes. The mean of 1.5 and 3.5 stands for the missing age.
    let expected = vec![(vec![1, 1], vec![1.5], 1, 0), (vec![2, 0], vec![3.5], 0, 0), (vec![1, 2], vec![2.5], 1, 1)];
    assert_eq!(rows(&dataset, Split::Train), expected);
    assert_eq!(rows(&dataset, Split::Valid), expected);
    assert!(dataset.split(Split::Test).is_empty());
    let manifest = dataset.manifest();
    assert_eq!(manifest.vocabulary_sizes, [3, 3]);
    assert_eq!((manifest.train.rows, manifest.train.clicks, manifest.train.conversions), (3, 2, 1));
    assert_eq!(manifest.train.clicked_conversion_rate, Some(0.5));
    // Preparing again replaces it; the same input gives the same bytes.
    let before = contents(&place.path("out"));
    place.prepare("out").unwrap();
    assert_eq!(contents(&place.path("out")), before);
}

#[test]
fn unseen_and_rare_values_are_id_0() {
    let place = Place::new().set("features.min_count=2");
    place.write("valid.csv", "age,user,click,item,conversion\n2,u1,0,zzz,0\n2,u3,1,c,1\n");
    let dataset = place.prepare("out").unwrap();
    assert_eq!(dataset.manifest().vocabulary_sizes, [2, 1]);
    assert_eq!(rows(&dataset, Split::Valid), vec![(vec![1, 0], vec![2.0], 0, 0), (vec![0, 0], vec![2.0], 1, 1)]);
    // Vocabularies come from train alone, so a value of train is its own in no other split.
    let config = Loaded::read(&place.path("c.toml"), &place.overrides).unwrap().config;
    dataset.manifest().fits(&config).unwrap();
    let config = Loaded::read(&place.path("c.toml"), &[]).unwrap().config;
    insta::assert_snapshot!(dataset.manifest().fits(&config).unwrap_err(), @"the dataset was prepared with min_count of feature `user` 2, but the configuration has 1; prepare again");
}

#[test]
fn every_format_gives_the_same_bytes() {
    // More rows than a block, of every type: integers, fractions, whole doubles, booleans, quoted text, all with gaps.
    let n = 10_007u32;
    let random = |i: u32, k: u32| i.wrapping_add(k).wrapping_mul(2_654_435_761).rotate_left(k + 9) % 1000;
    let gap = |i: u32, k: u32| !random(i, k + 20).is_multiple_of(10);
    let id: Vec<_> = (0..n).map(|i| gap(i, 0).then(|| i64::from(random(i, 0)) - 300)).collect();
    let small: Vec<_> = (0..n).map(|i| gap(i, 1).then(|| random(i, 1) as i32 % 7)).collect();
    let text: Vec<_> = (0..n).map(|i| gap(i, 2).then(|| format!("tag {}, \"é\"", random(i, 2) % 50))).collect();
    let flag: Vec<_> = (0..n).map(|i| gap(i, 3).then(|| random(i, 3) > 300)).collect();
    let whole: Vec<_> = (0..n).map(|i| gap(i, 4).then(|| f64::from(random(i, 4) % 40))).collect();
    let single: Vec<_> = (0..n).map(|i| gap(i, 5).then(|| random(i, 5) as f32 / 7.0)).collect();
    let double: Vec<_> = (0..n).map(|i| gap(i, 6).then(|| f64::from(random(i, 6)) / 3.0 - 50.0)).collect();
    let click: Vec<_> = (0..n).map(|i| Some(i64::from(random(i, 7) < 400))).collect();
    let conversion: Vec<_> = (0..n).map(|i| Some(i64::from(random(i, 7) < 100))).collect();
    let mut csv = String::from("unused,id,small,text,flag,whole,single,double,click,conversion\n");
    for i in 0..n as usize {
        fn show<T>(cell: &Option<T>, show: impl Fn(&T) -> String) -> String {
            cell.as_ref().map(show).unwrap_or_default()
        }
        let cells = [
            "x".to_string(),
            show(&id[i], |v| v.to_string()),
            show(&small[i], |v| v.to_string()),
            show(&text[i], |v| format!("\"{}\"", v.replace('"', "\"\""))),
            show(&flag[i], |v| (if *v { "True" } else { "False" }).to_string()),
            // As pandas and others write a float column: with `.0`.
            show(&whole[i], |v| format!("{v:?}")),
            show(&single[i], |v| v.to_string()),
            show(&double[i], |v| v.to_string()),
            show(&click[i], |v| v.to_string()),
            show(&conversion[i], |v| v.to_string()),
        ];
        csv += &(cells.join(",") + "\n");
    }
    let place = Place::new();
    place.write("a.csv", &csv).write("b.csv.gz", gzip(csv.as_bytes()));
    // gzip files may have several members.
    let (front, back) = csv.as_bytes().split_at(csv.len() / 2);
    place.write("members.csv.gz", [gzip(front), gzip(back)].concat());
    place.write("crlf.csv", "\u{feff}".to_string() + &csv.replace('\n', "\r\n"));
    let columns = [
        ("id", Cells::Int64(id)),
        ("small", Cells::Int32(small)),
        ("text", Cells::Text(text)),
        ("flag", Cells::Bool(flag)),
        ("whole", Cells::Double(whole)),
        ("single", Cells::Float(single)),
        ("double", Cells::Double(double)),
        ("click", Cells::Int64(click)),
        ("conversion", Cells::Int64(conversion)),
    ];
    write_parquet(&place.path("one.parquet"), &columns, usize::MAX >> 1);
    write_parquet(&place.path("many.parquet"), &columns, 999);
    place.write(
        "c.toml",
        r#"
[data]
train = ["a.csv"]
valid = ["a.csv"]
test = ["a.csv"]
[features]
transform = "log1p-standardize"
categorical = ["id", { name = "small", min_count = 3 }, "text", "flag", "whole", "single"]
numeric = ["double"]
"#,
    );
    let mut first = None;
    for file in ["a.csv", "b.csv.gz", "members.csv.gz", "crlf.csv", "one.parquet", "many.parquet"] {
        let list = format!("[\"{file}\"]");
        let overrides: Vec<String> = ["train", "valid", "test"].map(|s| format!("data.{s}={list}")).into();
        let loaded = Loaded::read(&place.path("c.toml"), &overrides).unwrap();
        let out = place.path(&format!("out-{file}"));
        let dataset = prepare(&loaded, &out, &Progress::new(true)).unwrap();
        assert_eq!(dataset.split(Split::Test).len(), n as usize);
        assert!(
            dataset
                .manifest()
                .vocabulary_sizes
                .iter()
                .zip([1001, 8, 51, 3, 41, 1001])
                .all(|(&have, most)| 2 < have && have <= most)
        );
        let have = contents(&out);
        match &first {
            None => first = Some(have),
            Some(first) => assert!(*first == have, "{file}"),
        }
        // What train would load from a run folder encodes the same rows to the same values.
        let encoding = Encoding::load(&out.join("encoding")).unwrap();
        assert_eq!(encoding, *dataset.encoding());
        let (mut block, mut encoded) = (Block::default(), Encoded::default());
        let mut reader = Reader::open(&place.path(file), &encoding.columns()).unwrap();
        let all = rows(&dataset, Split::Test);
        let mut row = 0;
        while reader.next(&mut block).unwrap() {
            encoding.encode(&block, &mut encoded).unwrap();
            for i in 0..block.rows {
                assert!(encoded.ids.iter().map(|c| c[i]).eq(all[row].0.iter().copied()), "{file} {row}");
                assert!(encoded.numeric.iter().map(|c| c[i]).eq(all[row].1.iter().copied()), "{file} {row}");
                row += 1;
            }
        }
        assert_eq!(row, n as usize);
    }
}

#[test]
fn columns_keep_their_kind_and_text() {
    let place = Place::new();
    let columns = [
        ("number", Cells::Double(vec![Some(5.0), None, Some(f64::NAN), Some(0.1)])),
        ("id", Cells::Int64(vec![Some(i64::MIN), Some(7), None, Some(0)])),
        ("flag", Cells::Bool(vec![Some(true), None, Some(false), None])),
        ("text", Cells::Text(vec![Some("5.0".into()), Some(String::new()), None, Some("é".into())])),
    ];
    write_parquet(&place.path("x.parquet"), &columns, 3);
    assert_eq!(Reader::columns(&place.path("x.parquet")).unwrap(), ["number", "id", "flag", "text"]);
    assert_eq!(Reader::columns(&place.path("train.csv")).unwrap(), ["user", "item", "age", "click", "conversion"]);
    let wanted = ["text", "id", "number", "flag"].map(String::from);
    let mut reader = Reader::open(&place.path("x.parquet"), &wanted).unwrap();
    assert_eq!(reader.kinds(), [Kind::Text, Kind::Integer, Kind::Float, Kind::Boolean]);
    let (mut block, mut all) = (Block::default(), Vec::new());
    while reader.next(&mut block).unwrap() {
        for row in 0..block.rows {
            all.push(block.columns.iter().map(|c| c.cell(row).to_string()).collect::<Vec<_>>().join("|"));
        }
    }
    assert_eq!(all, ["5.0|-9223372036854775808|5|true", "|7||", "|||false", "é|0|0.1|"]);
    assert_eq!(reader.position(), std::fs::metadata(place.path("x.parquet")).unwrap().len());
}

#[test]
fn label_modes() {
    let wrong = "user,item,age,click,conversion\nu1,a,1,1.0,true\nu2,b,2,0,1\nu2,b,9,FALSE,0\nu3,c,3,0,1.0\n";
    let place = Place::new();
    place.write("train.csv", wrong);
    insta::assert_snapshot!(place.error(), @r#"DIR/train.csv: row 2 (line 3): `conversion` is 1 where `click` is 0, in 2 rows of data.train altogether; mend them or set data.invalid_labels to "drop" or "click""#);
    let dropped = Place::new().set("data.invalid_labels=drop");
    let dataset = dropped.write("train.csv", wrong).prepare("out").unwrap();
    // Rows that are left out count for no vocabulary and no mean.
    assert_eq!(rows(&dataset, Split::Train), vec![(vec![1, 1], vec![1.0], 1, 1), (vec![2, 2], vec![9.0], 0, 0)]);
    assert_eq!((dataset.manifest().train.invalid_labels, dataset.manifest().vocabulary_sizes[0]), (2, 3));
    assert_eq!(dataset.encoding().numeric[0].mean, 5.0);
    let clicked = Place::new().set("data.invalid_labels=click");
    let dataset = clicked.write("train.csv", wrong).prepare("out").unwrap();
    let labels: Vec<_> = rows(&dataset, Split::Train).iter().map(|r| (r.2, r.3)).collect();
    assert_eq!(labels, [(1, 1), (1, 1), (0, 0), (1, 1)]);
    assert_eq!(dataset.manifest().train.clicks, 3);
}

#[test]
fn wrong_cells_and_rows() {
    let train = |text: &str| {
        let place = Place::new();
        place.write("train.csv", text);
        place.error()
    };
    insta::assert_snapshot!(train("user,item,age,click,conversion\nu1,a,1,1,0\n\nu1,a,1,1\n"), @"DIR/train.csv: row 2 (line 4): 4 cells, but the header has 5; mend the row (a cell with a comma needs quotes)");
    insta::assert_snapshot!(train("user,item,age,click,conversion\nu1,\"a\nb\",1,1,0\nu1,a,old,1,0\n"), @r#"DIR/train.csv: row 2 (line 4): column `age` holds "old", not a number; mend it or list the column under features.categorical"#);
    insta::assert_snapshot!(train("user,item,age,click,conversion\nu1,a,-inf,1,0\n"), @r#"DIR/train.csv: row 1 (line 2): column `age` holds "-inf", which is infinite; leave the cell empty if the value is unknown"#);
    insta::assert_snapshot!(train("user,item,age,click,conversion\nu1,a,1e39,1,0\n"), @r#"DIR/train.csv: row 1 (line 2): column `age` holds "1e39", which is beyond the largest f32, 3.4e38; scale the column"#);
    insta::assert_snapshot!(train("user,item,age,click,conversion\nu1,a,1,1,2\n"), @r#"DIR/train.csv: row 1 (line 2): label `conversion` is "2"; labels must be 0 or 1"#);
    insta::assert_snapshot!(train("user,item,age,click,conversion\nu1,a,1,,0\n"), @"DIR/train.csv: row 1 (line 2): label `click` is missing; labels must be 0 or 1");
    insta::assert_snapshot!(train("user,item,click,conversion\nu1,a,1,0\n"), @"DIR/train.csv: no column `age`; the columns are user, item, click, conversion");
    insta::assert_snapshot!(train("user,item,age,age,click,conversion\nu1,a,1,1,1,0\n"), @"DIR/train.csv: columns 3 and 4 are both named `age`; rename one");
    insta::assert_snapshot!(train("user,item,age,click,conversion\n"), @"data.train: no rows in DIR/train.csv");
    insta::assert_snapshot!(train(""), @"DIR/train.csv: no header row; the first line must name the columns");
    insta::assert_snapshot!(train("\"user\nid\",item,age,click,conversion\n"), @"DIR/train.csv: no column `user`; the columns are user id, item, age, click, conversion");
    // Lines count from where the row starts, whatever came before it and however lines end.
    let (lf, crlf) = (
        [("\n", "\n\n", "\n"), ("\n", "", ""), ("\n", "\n\n", "")],
        [("\r\n", "\r\n\r\n", "\r\n"), ("\r\n", "", ""), ("\r\n", "\r\n\r\n", "")],
    );
    for (end, blank, last) in lf.into_iter().chain(crlf) {
        let text = format!("user,item,age,click,conversion\n\nu1,\"a\nb\",1,1,0\n{blank}u1,a,old,1,0{last}");
        let text = text.replace("\r\n", "\n").replace('\n', end);
        let place = format!("DIR/train.csv: row 2 (line {}): ", if blank.is_empty() { 5 } else { 7 });
        assert!(train(&text).starts_with(&place), "{end:?} {last:?} {}", train(&text));
    }
    // An error of a later file and split names it too.
    let place = Place::new();
    place.write("valid.csv", "user,item,age,click,conversion\nu1,a,x,1,0\n");
    insta::assert_snapshot!(place.error(), @r#"DIR/valid.csv: row 1 (line 2): column `age` holds "x", not a number; mend it or list the column under features.categorical"#);
    let place = Place::new();
    place.write("train.csv", b"user,item,age,click,conversion\nu1,\xff,1,1,0\n");
    insta::assert_snapshot!(place.error(), @"DIR/train.csv: row 1 (line 2): column `item` is not UTF-8; convert the file to UTF-8");
    place.write("train.csv", b"user,it\xffem,age,click,conversion\n");
    insta::assert_snapshot!(place.error(), @"DIR/train.csv: the name of column 2 is not UTF-8; convert the file to UTF-8");
}

#[test]
fn a_quote_that_is_not_closed_is_no_end_of_the_rows() {
    let error = |rows: &str| {
        let text = format!("user,item,age,click,conversion,note\n{rows}");
        let place = Place::new().set("data.train=[\"t.csv.gz\"]");
        place.write("train.csv", &text).write("t.csv.gz", gzip(text.as_bytes()));
        let packed = place.error().replace("t.csv.gz", "train.csv");
        let plain = Place { overrides: Vec::new(), ..place };
        assert_eq!(plain.error(), packed);
        packed
    };
    let (good, rest) = ("u1,\"a\nb\",1,1,0,\"x\"\n\n", "u1,a,1,1,0,x\n".repeat(5000));
    insta::assert_snapshot!(error(&format!("{good}u1,a,1,1,0,\"5 inch\n{rest}")), @"DIR/train.csv: row 2 (line 5): the quote that opens cell 6 is not closed by the end of the file; close it (a quote as text is written twice, within quotes)");
    insta::assert_snapshot!(error(&format!("{good}u1,\"a,1,1,0,x\r\n{}", rest.trim_end())), @"DIR/train.csv: row 2 (line 5): the quote that opens cell 2 is not closed by the end of the file; close it (a quote as text is written twice, within quotes)");
    insta::assert_snapshot!(error(&format!("{good}u1,a,1,1,0,\"5\"\"")), @"DIR/train.csv: row 2 (line 5): the quote that opens cell 6 is not closed by the end of the file; close it (a quote as text is written twice, within quotes)");
    insta::assert_snapshot!(error(&format!("{good}u1,a,1,1,0,\"")), @"DIR/train.csv: row 2 (line 5): the quote that opens cell 6 is not closed by the end of the file; close it (a quote as text is written twice, within quotes)");
    let place = Place::new();
    place.write("train.csv", "user,\"item\n,age,click,conversion\nu1,a,1,1,0\n");
    insta::assert_snapshot!(place.error(), @"DIR/train.csv: header: the quote that opens cell 2 is not closed by the end of the file; close it (a quote as text is written twice, within quotes)");
    // Quotes within a cell, doubled quotes and the last one of the file are no such.
    for last in ["u1,a,1,1,0,5\" pipe", "u1,a,1,1,0,\"5\"\"\"", "u1,a,1,1,0,\"\"", "u1,a,1,1,0,\"a\n\"\n"] {
        place.write("train.csv", format!("user,item,age,click,conversion,note\n{good}{last}"));
        assert_eq!(place.prepare("well").unwrap().manifest().train.rows, 2, "{last}");
    }
}

#[test]
fn wrong_files() {
    let place = Place::new().set("data.train=[\"day-*.csv\"]");
    insta::assert_snapshot!(place.error(), @"DIR/c.toml: data.train: `day-*.csv` matches no file in DIR; check the pattern and data.root");
    let place = Place::new().set("data.train=[\"a**\"]");
    insta::assert_snapshot!(place.error(), @"DIR/c.toml: data.train: bad glob `a**`: recursive wildcards must form a single path component");
    let place = Place::new().set("data.train=[\"c.toml\"]");
    insta::assert_snapshot!(place.error(), @"DIR/c.toml: no known kind of file; its name must end in .csv, .csv.gz or .parquet");

    let long = TRAIN.to_string() + &"u1,c,2,1,1\n".repeat(20_000);
    let whole = gzip(long.as_bytes());
    let place = Place::new().set("data.train=[\"t.csv.gz\"]");
    place.write("t.csv.gz", &whole[..whole.len() - 4]);
    insta::assert_snapshot!(place.error(), @"DIR/t.csv.gz: row 20004: the gzip data ends here before its end; the file is cut off");
    let mut damaged = whole.clone();
    let at = damaged.len() - 5;
    damaged[at] ^= 1;
    place.write("t.csv.gz", &damaged);
    insta::assert_snapshot!(place.error(), @"DIR/t.csv.gz: row 20004: the gzip data is damaged here: corrupt gzip stream does not have a matching checksum");
    let [short, long] = [&b"x"[..], b"more than a head of gzip"].map(|rest| {
        place.write("t.csv.gz", [&whole, rest].concat());
        place.error()
    });
    assert_eq!(short, long);
    insta::assert_snapshot!(long, @"DIR/t.csv.gz: row 20004: the gzip data is damaged here: its end is followed by bytes that are no gzip data; remove them");
    place.write("t.csv.gz", [&whole, &whole[..50]].concat());
    assert!(place.error().ends_with("the gzip data ends here before its end; the file is cut off"));
    place.write("t.csv.gz", "user,item,age,click,conversion\n");
    insta::assert_snapshot!(place.error(), @"DIR/t.csv.gz: header: the gzip data is damaged here: invalid gzip header");
}

#[test]
fn wrong_parquet() {
    let place = Place::new().set("data.train=[\"t.parquet\"]");
    let texts = |n: usize| Cells::Text((0..n).map(|i| Some(format!("u{i}"))).collect());
    let ints = |n: usize| Cells::Int64(vec![Some(1); n]);
    let columns = |n| [("user", texts(n)), ("item", texts(n)), ("age", ints(n)), ("click", ints(n)), ("conversion", ints(n))];
    write_parquet(&place.path("t.parquet"), &columns(6000), 5000);
    place.prepare("well").unwrap();
    let whole = std::fs::read(place.path("t.parquet")).unwrap();
    place.write("t.parquet", &whole[..whole.len() - 100]);
    insta::assert_snapshot!(place.error(), @"DIR/t.parquet: no readable Parquet; the file is cut off or damaged (Parquet error: Invalid Parquet file. Corrupt footer)");
    place.write("t.parquet", "user,item");
    insta::assert_snapshot!(place.error(), @"DIR/t.parquet: no readable Parquet; the file is cut off or damaged (Parquet error: Invalid Parquet file. Corrupt footer)");
    write_parquet(&place.path("t.parquet"), &columns(6000)[1..], 5000);
    insta::assert_snapshot!(place.error(), @"DIR/t.parquet: no column `user`; the columns are item, age, click, conversion");
    let mut bad = columns(3);
    bad[2].1 = Cells::Double(vec![Some(1.0), Some(f64::INFINITY), None]);
    write_parquet(&place.path("t.parquet"), &bad, 5000);
    insta::assert_snapshot!(place.error(), @r#"DIR/t.parquet: row 2: column `age` holds "inf", which is infinite; leave the cell empty if the value is unknown"#);
    bad[2].1 = texts(3);
    write_parquet(&place.path("t.parquet"), &bad, 5000);
    insta::assert_snapshot!(place.error(), @r#"DIR/t.parquet: row 1: column `age` holds "u0", not a number; mend it or list the column under features.categorical"#);

    // A column's compression lies behind its name.
    write_parquet(&place.path("t.parquet"), &columns(3), 5000);
    let mut codec = std::fs::read(place.path("t.parquet")).unwrap();
    let at = codec.windows(7).position(|bytes| bytes == b"\x04user\x15\x00").unwrap();
    codec[at + 6] = 2 * 4;
    place.write("t.parquet", codec);
    insta::assert_snapshot!(place.error(), @"DIR/t.parquet: column `user` is compressed with Brotli, which is not read; write the file with Snappy, gzip, Zstandard or LZ4, or uncompressed");
    let mut twice = Vec::from(columns(3));
    twice.push(("item", texts(3)));
    write_parquet(&place.path("t.parquet"), &twice, 5000);
    insta::assert_snapshot!(place.error(), @"DIR/t.parquet: columns 2 and 6 are both named `item`; rename one");
    twice[5].0 = "unused";
    twice.push(("unused", texts(3)));
    write_parquet(&place.path("t.parquet"), &twice, 5000);
    place.prepare("twice").unwrap();

    let empty = |schema: &str| {
        let schema = Arc::new(parquet::schema::parser::parse_message_type(schema).unwrap());
        let file = std::fs::File::create(place.path("t.parquet")).unwrap();
        SerializedFileWriter::new(file, schema, Arc::new(WriterProperties::builder().build())).unwrap().close().unwrap();
        place.error()
    };
    insta::assert_snapshot!(empty("message m { optional group user (LIST) { repeated group list { optional binary element (UTF8); } } }"), @"DIR/t.parquet: column `user` is nested; only flat columns can be read: write its parts as columns of their own");
    insta::assert_snapshot!(empty("message m { optional int64 user (TIMESTAMP_MILLIS); }"), @"DIR/t.parquet: column `user` has type INT64 (TIMESTAMP_MILLIS); use boolean, integer, float, double or string");
    insta::assert_snapshot!(empty("message m { optional int96 user; }"), @"DIR/t.parquet: column `user` has type INT96; use boolean, integer, float, double or string");
    insta::assert_snapshot!(empty("message m { optional int64 user; optional int64 item; optional int64 age; optional int64 click; optional int64 conversion; }"), @"data.train: no rows in DIR/t.parquet");
}

/// The metadata with each of its bytes changed: what can be read is read, all else is an error and no panic.
#[test]
fn damaged_parquet_metadata() {
    let place = Place::new();
    let columns = [("user", Cells::Text(vec![Some("u".into()), None])), ("age", Cells::Int64(vec![Some(1), Some(2)]))];
    write_parquet(&place.path("t.parquet"), &columns, 5000);
    let whole = std::fs::read(place.path("t.parquet")).unwrap();
    let end = whole.len() - 8;
    let start = end - u32::from_le_bytes(whole[end..][..4].try_into().unwrap()) as usize;
    let mut panics = 0;
    for at in start..end {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        place.write("t.parquet", damaged);
        let read = || {
            let mut reader = Reader::open(&place.path("t.parquet"), &["user".to_string(), "age".to_string()])?;
            let mut block = Block::default();
            while reader.next(&mut block)? {}
            Ok(())
        };
        if let Err(e) = read() {
            let e: tauten::Error = e;
            assert_eq!((e.exit_code(), e.to_string().lines().count()), (2, 1), "{e}");
            panics += usize::from(e.to_string().contains("(column start and length should not be negative)"));
        }
    }
    assert!(panics > 0);
}

#[test]
fn out_is_kept_unless_it_is_a_dataset() {
    let place = Place::new();
    std::fs::create_dir(place.path("out")).unwrap();
    place.write("out/diary.txt", "dear");
    insta::assert_snapshot!(place.error(), @"DIR/out: exists and is no Tauten dataset; name another folder or remove it first");
    std::fs::remove_file(place.path("out/diary.txt")).unwrap();
    place.prepare("out").unwrap();
    // Nor is anything else removed with a dataset that is replaced.
    std::fs::create_dir(place.path("out/run")).unwrap();
    place.write("out/run/last.safetensors", "dear").write("out/zzz", "dear");
    insta::assert_snapshot!(place.error(), @"DIR/out/run: is no part of the dataset that would be replaced; name another folder, or move it elsewhere first");
    std::fs::remove_dir_all(place.path("out/run")).unwrap();
    std::fs::rename(place.path("out/zzz"), place.path("out/encoding/notes.txt")).unwrap();
    insta::assert_snapshot!(place.error(), @"DIR/out/encoding/notes.txt: is no part of the dataset that would be replaced; name another folder, or move it elsewhere first");
    std::fs::remove_file(place.path("out/encoding/notes.txt")).unwrap();
    place.prepare("out").unwrap();
    // A dataset stays as it was when preparing anew fails.
    let before = contents(&place.path("out"));
    place.write("valid.csv", "user,item,age,click,conversion\nu1,a,x,1,0\n");
    place.error();
    assert_eq!(contents(&place.path("out")), before);
}

#[test]
fn damaged_datasets() {
    let place = Place::new();
    place.prepare("out").unwrap();
    let out = place.path("out");
    let error =
        |dir: &Path| Dataset::open(dir).unwrap_err().to_string().replace(&place.folder.path().display().to_string(), "DIR");
    insta::assert_snapshot!(error(place.folder.path()), @"DIR: no Tauten dataset (it has no manifest.json); run `tauten prepare`");
    let manifest = std::fs::read_to_string(out.join("manifest.json")).unwrap();
    std::fs::write(out.join("manifest.json"), manifest.replace("\"version\": 3", "\"version\": 9")).unwrap();
    insta::assert_snapshot!(error(&out), @"DIR/out/manifest.json: tauten-dataset version 9, but this program reads tauten-dataset version 3; prepare again");
    std::fs::write(out.join("manifest.json"), &manifest[..manifest.len() / 2]).unwrap();
    assert!(error(&out).ends_with("; prepare again"));
    std::fs::write(out.join("manifest.json"), &manifest).unwrap();
    let bytes = std::fs::read(out.join("train.bin")).unwrap();
    std::fs::write(out.join("train.bin"), &bytes[1..]).unwrap();
    insta::assert_snapshot!(error(&out), @"DIR/out/train.bin: 23 bytes instead of 24; prepare again");
    std::fs::write(out.join("train.bin"), &bytes).unwrap();
    std::fs::remove_file(out.join("encoding/001_item.parquet")).unwrap();
    insta::assert_snapshot!(error(&out), @"DIR/out/encoding/001_item.parquet: No such file or directory (os error 2)");
}

#[test]
fn training_rows_need_a_click() {
    let rows = |labels: &str| format!("user,item,age,click,conversion\nu1,a,1,{labels}\nu2,b,2,{labels}\n");
    let place = Place::new();
    place.write("train.csv", rows("0,0"));
    insta::assert_snapshot!(place.error(), @"data.train: `click` is 0 in all of its 2 rows, so there is nothing to learn; check data.click and the files");
    // Other splits may be what they are, and clicked rows alone still teach what follows a click.
    place.write("train.csv", rows("1,0")).write("valid.csv", rows("0,0"));
    place.prepare("out").unwrap();
}

/// The real log, where it is at hand: CSV and Parquet of the same rows give the same dataset.
#[test]
fn kuairand_csv_and_parquet_give_the_same_bytes() {
    let Some(root) = kuairand::folder() else { return };
    let folder = tempfile::tempdir().unwrap();
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/kuairand.toml");
    let datasets = ["csv", "parquet"].map(|kind| {
        let mut overrides: Vec<String> = ["train", "valid", "test"].map(|s| format!("data.{s}=[\"test.{kind}\"]")).into();
        overrides.push(format!("data.root={}", root.display()));
        // A float column as a category as well as a number: its text differs between the files (`5.0` and 5).
        overrides.push("features.numeric=[\"user_follow_num\"]".into());
        overrides.push("features.categorical=[\"user\", \"item_tag\", \"user_fans_num_range\", \"video_duration_s\"]".into());
        let all = prepare(
            &Loaded::read(&config, &overrides[..4]).unwrap(),
            &folder.path().join(format!("all-{kind}")),
            &Progress::new(true),
        );
        assert_eq!(all.unwrap().split(Split::Train).len(), 28_861);
        let out = folder.path().join(kind);
        prepare(&Loaded::read(&config, &overrides).unwrap(), &out, &Progress::new(true)).unwrap();
        (contents(&out), contents(&folder.path().join(format!("all-{kind}"))))
    });
    assert!(datasets[0] == datasets[1]);
}
