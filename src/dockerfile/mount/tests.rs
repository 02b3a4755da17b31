use super::*;

fn read(text: &str) -> Result<MountSpec, Diagnostic> {
    let source = Source::new("Dockerfile", text);
    let raw = Spanned::new(text.to_owned(), Span::new(0, text.len()));
    parse(&raw, &source, &mut |value| Ok(value.replace("$v", "x,y")))
}

#[track_caller]
fn check_ok(text: &str, change: fn(&mut MountSpec)) {
    let mut expected = MountSpec::new(Span::new(0, text.len()));
    change(&mut expected);
    assert_eq!(read(text), Ok(expected));
}

/// `marked` is the part of the text that is pointed at.
#[track_caller]
fn check_error(text: &str, message: &str, marked: &str) {
    let diagnostic = read(text).expect_err("refused");
    assert_eq!(diagnostic.message, message);
    let (source, span) = diagnostic.place.expect("has a place");
    assert_eq!(&source.text()[span.range()], marked);
}

#[test]
fn keys_and_their_other_names() {
    check_ok("target=/a,src=b,FROM=c,rw", |spec| {
        spec.target = Some("/a".into());
        spec.source = Some("b".into());
        spec.from = Some("c".into());
        spec.read_only = Some(false);
    });
    check_ok("type=cache,dst=/c,id=i,sharing=Locked,mode=0700,uid=1,gid=2,ro=false", |spec| {
        spec.kind = MountType::Cache;
        spec.target = Some("/c".into());
        spec.id = Some("i".into());
        spec.sharing = Some(MountSharing::Locked);
        (spec.mode, spec.uid, spec.gid) = (Some(0o700), Some(1), Some(2));
        spec.read_only = Some(false);
    });
    check_ok("type=secret,id=s,env=S,required", |spec| {
        spec.kind = MountType::Secret;
        spec.id = Some("s".into());
        spec.env = Some("S".into());
        spec.required = true;
    });
}

#[test]
fn values_are_expanded_after_the_split() {
    check_ok("target=$v", |spec| spec.target = Some("x,y".into()));
}

#[test]
fn quoted_fields_may_hold_commas() {
    check_ok("\"target=/a,b\"\"c\",rw", |spec| {
        spec.target = Some("/a,b\"c".into());
        spec.read_only = Some(false);
    });
    check_error("target=\"/a\"", "failed to parse csv mounts: bare \" in non-quoted field", "target=\"/a\"");
    check_error("\"target=/a", "failed to parse csv mounts: extraneous or missing \" in quoted field", "\"target=/a");
}

#[test]
fn sizes() {
    for (text, size) in [("1", 1), ("1k", 1024), ("1.5m", 1_572_864), ("2 GiB", 2 << 30), ("3b", 3), ("1KB", 1024)] {
        assert_eq!(parse_size(text), Some(size), "{text}");
    }
    for text in ["", "big", "-1", "1x", "1bb", "1kib2", "k", "1 2m x", "nan", "inf"] {
        assert_eq!(parse_size(text), None, "{text}");
    }
}

#[test]
fn wrong_fields_are_pointed_at() {
    check_error("type=cahce,target=/a", "unsupported mount type `cahce`", "type=cahce");
    check_error("target=/a,tagret=/b", "unexpected key `tagret` in `tagret=/b`", "tagret=/b");
    check_error("target", "invalid field `target` must be a key=value pair", "target");
    check_error("required,type=ssh", "unexpected key `required` for mount type `bind`", "required");
    check_error("type=cache,size=1m", "unexpected key `size` for mount type `cache`", "size=1m");
    check_error("type=tmpfs,size=big", "invalid value `big` for `size`", "size=big");
    check_error("ro=yes", "invalid value `yes` for `ro`", "ro=yes");
    check_error("type=cache,mode=9", "invalid value `9` for `mode`", "mode=9");
    check_error("type=cache,uid=+1", "invalid value `+1` for `uid`", "uid=+1");
    check_error("type=cache,sharing=some", "unsupported sharing value `some`", "sharing=some");
    check_error("from=$x", "`from` doesn't support variable expansion, define alias stage instead", "from=$x");
    check_error("", "failed to parse csv mounts: it is empty", "");
}

#[test]
fn fields_that_do_not_go_together() {
    check_error("mode=1", "`mode` not allowed for `bind` type mounts", "mode=1");
    check_error("type=secret", "invalid secret mount: one of `id`, `source`, `target` is required", "type=secret");
    check_error("type=secret,id=a,src=b", "both `source` and `id` can't be set", "type=secret,id=a,src=b");
    check_error("type=secret,id=a,from=b", "secret mount should not have a `from`", "type=secret,id=a,from=b");
    check_error("type=ssh,sharing=shared", "invalid cache `sharing` set for `ssh` mount", "type=ssh,sharing=shared");
}

#[test]
fn variables_put_off_all_but_the_form() {
    let check = |text: &str| {
        let source = Source::new("Dockerfile", text);
        check(&Spanned::new(text.to_owned(), Span::new(0, text.len())), &source, '\\').map_err(|diagnostic| diagnostic.code)
    };
    assert_eq!(check("type=$t,frobnicate=1"), Ok(()));
    assert_eq!(check("type=nope"), Err("mount-value"));
    assert_eq!(check("target=/a,from=$s"), Err("mount-from"));
    assert_eq!(check("target=\"$s\""), Err("mount-csv"));
}
