use super::*;
use policy_format::{Hosts, RuleKind};
use std::path::PathBuf;
use tempfile::TempDir;

/// What a line says, in a few words: its hosts as patterns (`=` before an exact name, `@@` before an exception), or what it is.
fn said(format: ListFormat, line: &[u8]) -> String {
    let mut words = Vec::new();
    let kind = parse_line(format, line, &mut |hosts, exception| {
        let mark = if exception { "@@" } else { "" };
        words.push(match hosts {
            HostsRef::Name(RuleKind::Exact, _) => format!("{mark}={hosts}"),
            HostsRef::Glob(_) => format!("{mark}glob {hosts}"),
            _ => format!("{mark}{hosts}"),
        });
    });
    match kind {
        Ok(LineKind::Entries) => {}
        Ok(LineKind::Skipped) => words.push("skipped".into()),
        Ok(LineKind::Ignored) => words.push("ignored".into()),
        Err(error) => words.push(format!("bad: {error}")),
    }
    words.join(", ")
}

/// Tables of `line => what it says`. `\r`, `\t` and `\xNN` are escapes.
#[test]
fn every_line_says_what_its_format_means() {
    let tables = [
        (ListFormat::Domains, include_str!("cases/domains.txt")),
        (ListFormat::Hosts, include_str!("cases/hosts.txt")),
        (ListFormat::Adblock, include_str!("cases/adblock.txt")),
        (ListFormat::Dnsmasq, include_str!("cases/dnsmasq.txt")),
    ];
    let mut wrong = Vec::new();
    for (format, table) in tables {
        let mut cases = 0;
        for case in table.lines().filter(|case| !case.is_empty()) {
            let (line, expected) = case.split_once(" => ").unwrap_or_else(|| panic!("{case}"));
            let found = said(format, &unescape(line));
            if found != expected {
                wrong.push(format!("{}: {line} => {found}", format.as_str()));
            }
            cases += 1;
        }
        assert!(cases >= 15, "{} has cases", format.as_str());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn unescape(text: &str) -> Vec<u8> {
    let text = text.replace("\\r", "\r").replace("\\t", "\t");
    let mut parts = text.split("\\x");
    let mut bytes = parts.next().unwrap().as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
        bytes.extend(&part.as_bytes()[2..]);
    }
    bytes
}

#[test]
fn formats_have_names() {
    for format in ListFormat::ALL {
        assert_eq!(ListFormat::from_name(format.as_str()), Some(format));
    }
    assert_eq!(ListFormat::from_name("Hosts"), None);
}

#[test]
fn plain_names_say_what_the_pattern_says() {
    let names = ["Example.COM.", "a_b.example", "192.0.2.7", "127.1", "a..b", ".a", "-", "x", "", ".", "bü.test"];
    for name in names.iter().flat_map(|name| ["", "*.", "**."].map(|wildcard| format!("{wildcard}{name}"))).filter(|line| !line.is_empty())
    {
        let name = name.as_str();
        let mut found = Err(LineError::NoName);
        let kind = parse_line(ListFormat::Domains, name.as_bytes(), &mut |hosts, _| found = Ok(hosts.to_string()));
        let long_way = policy_format::Pattern::parse(name).map(|pattern| match pattern.hosts {
            Hosts::Exact(name) => Hosts::ApexAndSubdomains(name),
            other => other,
        });
        match long_way {
            Ok(hosts) => assert_eq!(found, Ok(hosts.to_string()), "{name}"),
            Err(error) => assert_eq!(kind.unwrap_err().to_string(), error.to_string(), "{name}"),
        }
    }
}

fn file(name: &str, bytes: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    (folder, path)
}

/// Lines and hosts of a list, and the report.
fn read_all(name: &str, bytes: &[u8]) -> (Vec<(u32, String)>, Result<ListReport, ListError>) {
    let (_folder, path) = file(name, bytes);
    let mut entries = Vec::new();
    let report = read(&path, ListFormat::Domains, &mut |_| {}, &mut |entry| entries.push((entry.line, entry.hosts.to_string())));
    (entries, report)
}

#[test]
fn lines_are_counted_by_kind_and_the_first_bad_ones_are_shown() {
    let text =
        "\u{feff}first.example\r\n\n# comment\nexa mple\n*\nhttp://x.example/\n=*.x\n:\n\u{202e}bad\u{7}line\\'\"\n  LAST.example. # end";
    let (entries, report) = read_all("list.txt", text.as_bytes());
    let report = report.unwrap();
    assert_eq!(entries, [(1, "**.first.example".to_owned()), (10, "**.last.example".to_owned())]);
    assert_eq!((report.lines, report.entries, report.skipped, report.ignored, report.bad_count), (10, 2, 2, 0, 6));
    let bad: Vec<_> = report.bad.iter().map(|bad| (bad.line, bad.text.as_str())).collect();
    assert_eq!(bad, [(4, "exa mple"), (5, "*"), (6, "http://x.example/"), (7, "=*.x"), (8, ":")]);
    assert_eq!(report.bad[3].why, LineError::NotExact);
}

#[test]
fn bad_lines_are_shown_short_and_without_controls() {
    let long = "a ".repeat(200);
    let (_, report) = read_all("list", format!("\u{202e}bad\u{7}line\\'\"\u{1b}[31m\n{long}\nnot \u{0} utf").as_bytes());
    let shown: Vec<_> = report.unwrap().bad.into_iter().map(|bad| bad.text).collect();
    assert_eq!(shown, ["\\u{202e}bad\\u{7}line\\'\"\\u{1b}[31m".to_owned(), format!("{}…", "a ".repeat(40)), "not \\0 utf".to_owned()]);
    let (_, report) = read_all("list", b"\xff\xfe\nok.example\n");
    let report = report.unwrap();
    assert_eq!((report.entries, report.bad[0].why, report.bad[0].text.as_str()), (1, LineError::Utf8, "\u{fffd}\u{fffd}"));
}

#[test]
fn long_lines_are_bad_wherever_chunks_end() {
    // Lines before, across and behind the ends of pieces that are read and of chunks that are cut, some of them several chunks long.
    for before in [0, 60_000, 65_536, CHUNK - 6, CHUNK] {
        for long in [MAX_LINE, MAX_LINE + 1, 70_000, 2 * CHUNK + 1] {
            for mark in ["", "\u{feff}"] {
                let text = format!("{mark}{}\n{}\nlast.example\n", "#".repeat(before), "#".repeat(long));
                let (entries, report) = read_all("list", text.as_bytes());
                let report = report.unwrap();
                let bad: Vec<_> = report.bad.iter().map(|bad| (bad.line, bad.why)).collect();
                let numbers = [(1, before > MAX_LINE), (2, long > MAX_LINE)];
                let expected: Vec<_> = numbers.into_iter().filter(|(_, bad)| *bad).map(|(line, _)| (line, LineError::TooLong)).collect();
                assert_eq!(bad, expected, "{before} {long}");
                assert_eq!(entries, [(3, "**.last.example".to_owned())]);
                assert!(report.bad.iter().all(|bad| bad.text.chars().count() == SHOWN_TEXT + 1));
            }
        }
    }
    // The longest line that is none too long keeps its mark out of the count.
    let (_, report) = read_all("list", format!("\u{feff}{}", "#".repeat(MAX_LINE)).as_bytes());
    assert_eq!(report.unwrap().bad_count, 0);
    let (_, report) = read_all("list", &[b'a'; 70_000]);
    let report = report.unwrap();
    assert_eq!((report.lines, report.bad_count, report.bad[0].why), (1, 1, LineError::TooLong));
}

#[test]
fn every_entry_of_many_chunks_arrives() {
    let names: Vec<_> = (0..20_000).map(|number| format!("host-{number}.{}.example", "x".repeat(number % 50 + 1))).collect();
    let (entries, report) = read_all("list", names.join("\n").as_bytes());
    assert_eq!(report.unwrap().lines, 20_000);
    assert!(
        entries
            .iter()
            .zip(1..)
            .zip(&names)
            .all(|(((line, hosts), number), name)| *line == number && hosts.strip_prefix("**.") == Some(name))
    );
    assert_eq!(entries.len(), names.len());
}

#[test]
fn an_empty_file_has_no_lines() {
    for text in ["", "\u{feff}"] {
        let (_, report) = read_all("list", text.as_bytes());
        let report = report.unwrap();
        assert_eq!((report.entries, report.skipped, report.bad_count), (0, report.lines, 0));
    }
}

#[test]
fn progress_grows_to_the_end() {
    let (_folder, path) = file("list", "a-rather-long-name-for-a-host.example\n".repeat(50_000).as_bytes());
    let mut heard = Vec::new();
    read(&path, ListFormat::Domains, &mut |progress| heard.push(progress), &mut |_| {}).unwrap();
    let total = 38 * 50_000;
    assert!(heard.len() >= 4 && heard.len() <= 9, "{heard:?}");
    assert!(heard.windows(2).all(|pair| pair[0].read <= pair[1].read) && heard.iter().all(|progress| progress.total == total));
    assert_eq!(heard.last().unwrap().read, total);
}

#[test]
fn bounds_end_the_reading() {
    let (_folder, path) = file("list.txt", b"a.example\nb.example\nc.example\n");
    let limited = |bytes, lines| {
        let mut count = 0;
        let report = read_within(&path, ListFormat::Domains, Limits { bytes, lines }, &mut |_| {}, &mut |_| count += 1);
        (count, report.map(|report| report.lines))
    };
    assert!(matches!(limited(30, 3), (3, Ok(3))));
    assert!(matches!(limited(29, 3), (0, Err(ListError::TooLarge { limit: 29, line: 0, .. }))));
    assert!(matches!(limited(30, 2), (2, Err(ListError::TooManyLines { limit: 2, .. }))));
}

#[test]
fn only_regular_files_are_lists() {
    let folder = tempfile::tempdir().unwrap();
    let read = |path: &Path| read(path, ListFormat::Domains, &mut |_| {}, &mut |_| {}).unwrap_err();
    assert!(matches!(read(folder.path()), ListError::NotAFile { .. }));
    let missing = read(&folder.path().join("none.txt")).to_string();
    assert!(missing.starts_with("cannot open the domain list `") && missing.contains("none.txt"), "{missing}");
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_devices_and_pipes_refused() {
    let (folder, path) = file("list.txt", b"a.example\n");
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let read = |path: &Path| read(path, ListFormat::Domains, &mut |_| {}, &mut |_| {});
    assert_eq!(read(&link).unwrap().entries, 1);
    assert!(matches!(read(Path::new("/dev/zero")), Err(ListError::NotAFile { .. })));
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert!(matches!(read(&pipe), Err(ListError::NotAFile { .. })));
}

#[cfg(not(feature = "lists"))]
#[test]
fn compressed_lists_are_refused_without_the_decoders() {
    for name in ["list.gz", "list.xz", "list.zst"] {
        let (_, report) = read_all(name, b"a.example\n");
        assert!(matches!(report, Err(ListError::NotBuilt { .. })), "{report:?}");
    }
}

#[cfg(feature = "lists")]
mod compressed {
    use super::*;
    use std::io::Write;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn xz(text: &[u8]) -> Vec<u8> {
        let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1)).unwrap();
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(text: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(text, ruzstd::encoding::CompressionLevel::Fastest)
    }

    type Encoder = fn(&[u8]) -> Vec<u8>;
    const ENCODERS: [(&str, Encoder); 4] = [("list.gz", gzip), ("list.XZ", xz), ("list.zst", zstd), ("list.zstd", zstd)];

    fn text() -> Vec<u8> {
        (0..30_000).flat_map(|number| format!("host-{number}.example\n").into_bytes()).collect()
    }

    #[test]
    fn read_as_their_text() {
        let expected = read_all("list", &text());
        for (name, encode) in ENCODERS {
            let (entries, report) = read_all(name, &encode(&text()));
            assert_eq!(report.unwrap(), *expected.1.as_ref().unwrap(), "{name}");
            assert!(entries == expected.0, "{name}");
        }
    }

    #[test]
    fn several_in_a_row_are_one_text() {
        for (name, encode) in ENCODERS {
            let bytes = [encode(b"a.exa"), encode(b""), encode(b"mple\nb.example")].concat();
            let (entries, report) = read_all(name, &bytes);
            assert_eq!(report.unwrap().lines, 2, "{name}");
            assert_eq!(entries, [(1, "**.a.example".to_owned()), (2, "**.b.example".to_owned())], "{name}");
        }
    }

    #[test]
    fn zstd_frames_to_be_skipped_are_skipped() {
        let skipped = |length: u32| [&[0x50, 0x2a, 0x4d, 0x18][..], &length.to_le_bytes(), b"abc"].concat();
        let (_, report) = read_all("list.zst", &[skipped(3), zstd(b"a.example"), skipped(3)].concat());
        assert_eq!(report.unwrap().entries, 1);
        let (_, report) = read_all("list.zst", &[zstd(b"a.example"), skipped(4)].concat());
        assert!(report.unwrap_err().to_string().contains("unexpected end"));
    }

    #[test]
    fn cut_off_is_an_error_with_its_place() {
        for (name, encode) in ENCODERS {
            let whole = encode(&text());
            for length in [0, 1, 5, 20, whole.len() / 2, whole.len() - 1] {
                let (entries, report) = read_all(name, &whole[..length]);
                let error = report.expect_err(name);
                let ListError::Read { line, byte, .. } = error else { panic!("{name}: {error}") };
                assert_eq!(entries.len(), line as usize, "{name} {length}");
                assert!(byte <= length as u64, "{name} {length} {byte}");
                if length == whole.len() / 2 {
                    // An xz decoder wants a whole chunk before it gives anything.
                    assert!((line > 1000 || name == "list.XZ") && byte > 1000, "{name}: {line} {byte}");
                }
            }
        }
    }

    #[test]
    fn one_wrong_byte_never_panics_and_never_passes_unseen() {
        let text = b"a.example\nb.example\n".repeat(20);
        for (name, encode) in ENCODERS {
            let whole = encode(&text);
            let (expected, _) = read_all("list", &text);
            let mut seen = 0;
            for at in 0..whole.len() {
                let mut bytes = whole.clone();
                bytes[at] ^= 0x20;
                // Bytes of a header that carry no text, such as the time in gzip, may be anything.
                match read_all(name, &bytes) {
                    (entries, Ok(_)) => assert!(entries == expected, "{name} {at}"),
                    (_, Err(_)) => seen += 1,
                }
            }
            assert!(seen > whole.len() / 2, "{name}: {seen} of {}", whole.len());
        }
    }

    #[test]
    fn bombs_are_stopped() {
        let zeros = vec![b'\n'; 8 << 20];
        for (name, encode) in ENCODERS {
            let bytes = encode(&zeros);
            assert!(bytes.len() < 64 << 10, "{name} is a bomb: {}", bytes.len());
            let (_folder, path) = file(name, &bytes);
            let limits = Limits { bytes: 1 << 20, lines: MAX_LINES };
            let error = read_within(&path, ListFormat::Domains, limits, &mut |_| {}, &mut |_| {}).unwrap_err();
            let ListError::TooLarge { line, .. } = error else { panic!("{name}: {error}") };
            assert!((1 << 19..=1 << 20).contains(&line), "{name}: {line}");
        }
    }

    #[test]
    fn a_decoder_may_not_remember_too_much() {
        // Frame header: magic, no single segment, a window of 2^(10+exponent) bytes; then one empty last block.
        let frame = |exponent: u8| [0x28, 0xb5, 0x2f, 0xfd, 0, exponent << 3, 1, 0, 0];
        assert_eq!(read_all("list.zst", &frame(17)).1.unwrap().lines, 0);
        let error = read_all("list.zst", &frame(18)).1.unwrap_err();
        assert!(matches!(error, ListError::Read { .. }), "{error}");

        let with_dictionary = |size| {
            let mut options = lzma_rust2::XzOptions::with_preset(0);
            options.lzma_options.dict_size = size;
            let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
            encoder.write_all(b"a.example\n").unwrap();
            encoder.finish().unwrap()
        };
        assert_eq!(read_all("list.xz", &with_dictionary(64 << 20)).1.unwrap().entries, 1);
        let error = read_all("list.xz", &with_dictionary(256 << 20)).1.unwrap_err();
        assert!(matches!(error, ListError::Read { .. }), "{error}");
    }

    #[test]
    fn messages_say_where() {
        let (_, report) = read_all("list.gz", b"a.example\n");
        let message = report.unwrap_err().to_string();
        assert!(message.contains("list.gz` as gzip beyond line 0, at byte "), "{message}");
    }
}
