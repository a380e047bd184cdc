"""Settings: where each comes from, and one clear line for each that is wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from config.errors import BadSetting
from config.media import MediaLimits
from config.settings import Loaded, Settings
from config.values import duration, mask, show_duration, show_size, size
from storage.objects.rules import Access, BucketRules
from storage.objects.uri import ObjectUri


def load(tmp_path: Path, toml: str | None = None, /, **environ: str) -> Loaded:
    """Settings of an environment that knows only what is given, and of a file."""
    files = []
    if toml is not None:
        files = [tmp_path / "mediamill.toml"]
        files[0].write_text(toml, encoding="utf-8")
    given = {"MEDIAMILL_HOME": str(tmp_path / "home")} | {f"MEDIAMILL_{name}": value for name, value in environ.items()}
    return Settings.load(given, files)


def lines(tmp_path: Path, toml: str | None = None, /, **environ: str) -> tuple[str, ...]:
    with pytest.raises(BadSetting) as caught:
        load(tmp_path, toml, **environ)
    return caught.value.lines


def test_the_defaults_are_those_of_the_design(tmp_path: Path) -> None:
    settings = load(tmp_path).settings
    assert (settings.beat, settings.lease, settings.max_attempts, settings.crash_limit) == (5, 30, 3, 2)
    assert (settings.backoff_base_s, settings.backoff_cap_s, settings.drain_grace_s) == (2, 600, 30)
    assert (settings.lane_cap, settings.claim_ahead_s, settings.job_time_limit_s) == (20_000, 5, 3600)
    assert (settings.dedupe_ttl, settings.history_kept, settings.rejected_kept) == (2_592_000, 7_776_000, 7_776_000)
    assert (settings.message_bytes, settings.nesting, settings.inputs_per_job) == (1_048_576, 64, 1000)


def test_without_any_setting_all_is_embedded_below_home(tmp_path: Path) -> None:
    settings = load(tmp_path).settings
    home = tmp_path / "home"
    assert (settings.database_url, settings.kafka_bootstrap) == (None, None)
    assert (settings.store, settings.models) == (home / "store", home / "models")
    assert (settings.scratch, settings.cache, settings.pgdata) == (home / "scratch", home / "cache", home / "pgdata")
    assert (settings.s3_buckets, settings.output_prefix) == ({"media": "rw"}, "s3://media/derived/")
    assert settings.http_address == ("127.0.0.1", 9321)


def test_each_setting_tells_where_it_comes_from(tmp_path: Path) -> None:
    toml = '# mine\nlease = "1m"\nbeat = 7\n\n[s3_buckets]\nmedia = "rw"\n'
    (tmp_path / "mediamill.toml").write_text(toml, encoding="utf-8")
    environ = {"MEDIAMILL_BEAT": "2s", "MEDIAMILL_HOME": str(tmp_path), "PATH": "/bin"}
    loaded = Settings.load(environ, [tmp_path / "mediamill.toml"], {"max_batch": 4})
    assert (loaded.settings.lease, loaded.settings.beat, loaded.settings.max_batch) == (60, 2, 4)
    assert loaded.sources["lease"] == f"file {tmp_path}/mediamill.toml:2"
    assert loaded.sources["s3_buckets"] == f"file {tmp_path}/mediamill.toml:5"
    assert loaded.sources["beat"] == "environment MEDIAMILL_BEAT"
    assert loaded.sources["max_batch"] == "command line --max-batch"
    assert loaded.sources["lane_cap"] == "default"
    assert loaded.sources.keys() == Settings.model_fields.keys()


def test_the_file_is_the_named_one_else_that_of_the_folder_else_that_of_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, home = tmp_path / "here", tmp_path / "home"
    for number, folder in enumerate((here, home), start=11):
        folder.mkdir()
        (folder / "mediamill.toml").write_text(f"lane_cap = {number}", encoding="utf-8")
    (tmp_path / "named.toml").write_text("lane_cap = 13", encoding="utf-8")
    monkeypatch.chdir(here)
    environ = {"MEDIAMILL_HOME": str(home)}
    assert Settings.load(environ | {"MEDIAMILL_CONFIG": "../named.toml"}).settings.lane_cap == 13
    assert Settings.load(environ).settings.lane_cap == 11
    (here / "mediamill.toml").unlink()
    assert Settings.load(environ).settings.lane_cap == 12
    assert Settings.load(environ).file == home / "mediamill.toml"


def test_a_named_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match=r"MEDIAMILL_CONFIG=.*no-such.toml: there is no such file"):
        Settings.load({"MEDIAMILL_CONFIG": str(tmp_path / "no-such.toml"), "MEDIAMILL_HOME": str(tmp_path)})


def test_paths_in_a_file_are_relative_to_it_and_others_to_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    settings = load(
        tmp_path, 'models = "weights"\nstore = "s3"\ns3_buckets = ["media"]\noutput_prefix = "s3://media/o/"'
    )
    assert settings.settings.models == tmp_path / "weights"
    assert settings.settings.store == "s3"
    assert load(tmp_path, MODELS="weights").settings.models == Path("/weights")


def test_an_empty_variable_is_unset_and_those_of_kubernetes_are_passed_over(tmp_path: Path) -> None:
    loaded = load(
        tmp_path, DATABASE_URL="", SERVICE_HOST="10.0.0.1", PORT="tcp://10.0.0.1:80", PORT_80_TCP_ADDR="10.0.0.1",
        HTTP_SERVICE_PORT_METRICS="80",
    )  # fmt: skip
    assert loaded.settings.database_url is None
    assert loaded.sources["database_url"] == "default"


def test_the_password_is_shown_nowhere(tmp_path: Path) -> None:
    loaded = load(tmp_path, DATABASE_URL="postgres://me:s3cr@t@db/x?sslpassword=t0p")
    shown = {setting.name: setting for setting in loaded.shown()}
    assert shown["database_url"].value == "postgresql://me:***@db/x?sslpassword=***"
    assert "s3cr" not in repr(loaded)
    assert loaded.settings.database_url == "postgresql://me:s3cr@t@db/x?sslpassword=t0p"
    for wrong in ("mysql://me:s3cret@db/x", "postgres:/me:s3cret@db", "s3cret"):
        [line] = lines(tmp_path, DATABASE_URL=wrong)
        assert "s3cret" not in line
        assert line.startswith("MEDIAMILL_DATABASE_URL=")
        assert "postgresql://user:password@host" in line


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("BEAT", "soon", "MEDIAMILL_BEAT=soon: is not a duration; write seconds, or a number with a unit"),
        ("BEAT", "-1", "MEDIAMILL_BEAT=-1: is not a duration"),
        ("LEASE", "0", "MEDIAMILL_LEASE=0: should be greater than 0"),
        ("CACHE_BYTES", "much", "MEDIAMILL_CACHE_BYTES=much: is not a size; write bytes, or a number with a unit"),
        ("MAX_ATTEMPTS", "101", "MEDIAMILL_MAX_ATTEMPTS=101: should be less than or equal to 100"),
        ("MAX_BATCH", "many", "MEDIAMILL_MAX_BATCH=many: should be a valid integer"),
        ("SANDBOX", "maybe", "MEDIAMILL_SANDBOX=maybe: should be 'auto', 'required' or 'off'"),
        ("DEVICE", "gpu", "MEDIAMILL_DEVICE=gpu: is not a device; write auto, cpu, or cuda:0"),
        ("S3_BUCKETS", "media", "MEDIAMILL_S3_BUCKETS=media: is not JSON"),
        ("S3_BUCKETS", "7", "MEDIAMILL_S3_BUCKETS=7: is not a list of places"),
        ("S3_BUCKETS", '{"media": "all"}', 'MEDIAMILL_S3_BUCKETS={"media": "all"}[media]: should be'),
        ("S3_BUCKETS", '{"M": "r"}', 'MEDIAMILL_S3_BUCKETS={"M": "r"}[M]: is not a bucket or a folder in one'),
        (
            "S3_BUCKETS",
            '["media/../"]',
            'MEDIAMILL_S3_BUCKETS=["media/../"][media/../]: is not a bucket or a folder in one',
        ),
        ("S3_BUCKETS", '["10.0.0.1"]', 'MEDIAMILL_S3_BUCKETS=["10.0.0.1"][10.0.0.1]: is not a bucket'),
        ("S3_ENDPOINT", "localhost:9000", "MEDIAMILL_S3_ENDPOINT=localhost:9000: is not the URL of a server"),
        ("STORE", "s3://media", "MEDIAMILL_STORE=s3://media: names a URL; write s3"),
        ("OUTPUT_PREFIX", "s3://media/x", "MEDIAMILL_OUTPUT_PREFIX=s3://media/x: is not the prefix of outputs"),
        ("OUTPUT_PREFIX", "s3://other/x/", "MEDIAMILL_OUTPUT_PREFIX=s3://other/x/: is in bucket 'other', which"),
        ("HTTP_BIND", "9321", "MEDIAMILL_HTTP_BIND=9321: is not an address; write host:port"),
        ("KAFKA_BOOTSTRAP", "kafka", "MEDIAMILL_KAFKA_BOOTSTRAP=kafka: is not a list of servers; write host:port"),
        ("MEDIA_LIMITS", '{"media": {"pixels": 1}}', "[media][pixels]: is not a name that is known here"),
        ("LEAS", "1", "MEDIAMILL_LEAS: there is no such setting; did you mean MEDIAMILL_LEASE?"),
        ("lease", "1", "MEDIAMILL_lease: there is no such setting; did you mean MEDIAMILL_LEASE?"),
        ("BEAT", "10", "MEDIAMILL_BEAT=10: should be less than a third of the lease (30s)"),
        ("BACKOFF_BASE_S", "1h", "MEDIAMILL_BACKOFF_BASE_S=1h: should be at most backoff_cap_s (10m)"),
        ("OBJECT_BYTES", "1TiB", "MEDIAMILL_OBJECT_BYTES=1TiB: should be at most cache_bytes (20GiB)"),
        ("LANE_WEIGHTS", '{"upload": 1}', 'MEDIAMILL_LANE_WEIGHTS={"upload": 1}: lacks backfill, interactive'),
        (
            "S3_ENDPOINT",
            "http://minio:9000",
            "MEDIAMILL_S3_ENDPOINT=http://minio:9000: is set, but the store is a folder",
        ),
        ("HOME", "\0", r"MEDIAMILL_HOME=\x00: is not a path"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it_and_what_would_be_right(
    tmp_path: Path, name: str, value: str, line: str
) -> None:
    [found] = lines(tmp_path, **{name: value})
    assert line in found
    assert found.isprintable()


def test_every_wrong_setting_has_its_line(tmp_path: Path) -> None:
    found = lines(tmp_path, "lane_capp = 1\nmax_batch = 0\n[nesting]\na = 1", BEAT="x", LEESE="1")
    file = tmp_path / "mediamill.toml"
    assert {line.split(": ")[0] for line in found} == {
        "MEDIAMILL_BEAT=x", "MEDIAMILL_LEESE", f"{file}:1", f"{file}:2", f"{file}:3",
    }  # fmt: skip
    assert f"{file}:1: there is no setting 'lane_capp'; did you mean lane_cap?" in found
    assert any(line.startswith(f"{file}:2: max_batch = 0: should be greater than or equal to 1") for line in found)


def test_a_file_that_is_not_toml_is_one_line(tmp_path: Path) -> None:
    [line] = lines(tmp_path, "lease = \n")
    assert line.startswith(f"{tmp_path}/mediamill.toml: cannot be read as TOML: ")
    assert "line 1" in line


def test_s3_needs_an_allow_list_and_a_place_for_outputs(tmp_path: Path) -> None:
    found = lines(tmp_path, STORE="s3")
    assert [line.split(":")[0] for line in found] == ["MEDIAMILL_S3_BUCKETS", "MEDIAMILL_OUTPUT_PREFIX"]
    settings = load(
        tmp_path,
        STORE="S3",
        S3_BUCKETS='{"uploads": "r", "out/x/": "rw"}',
        S3_ENDPOINT="http://minio:9000/",
        OUTPUT_PREFIX="s3://out/x/",
    )
    assert (settings.settings.store, settings.settings.s3_endpoint) == ("s3", "http://minio:9000")


def test_the_allow_list_is_one_that_the_object_store_understands(tmp_path: Path) -> None:
    settings = load(tmp_path, S3_BUCKETS='{"uploads/": "r", "media/out/x/": "rw", "media": "write"}').settings
    rules = BucketRules.parse(settings.s3_buckets)
    assert rules.buckets == {"uploads", "media"}
    assert rules.allows(ObjectUri("media", "out/x/a"), Access.READ | Access.WRITE)
    assert not rules.allows(ObjectUri("media", "a"), Access.READ)
    assert (
        BucketRules.parse(load(tmp_path, S3_BUCKETS='["uploads", "media"]').settings.s3_buckets).buckets
        == rules.buckets
    )


def test_media_limits_of_a_bucket_override_the_general_ones(tmp_path: Path) -> None:
    settings = load(tmp_path, MEDIA_LIMITS='{"uploads": {"max_bytes": "5MB"}}', IMAGE_PIXELS="1000").settings
    assert settings.media_limits_of("uploads") == MediaLimits(
        max_bytes=5_000_000, max_pixels=1000, max_frames=1000, max_seconds=43200, max_streams=32
    )
    assert settings.media_limits_of("media") == MediaLimits(
        max_bytes=104_857_600, max_pixels=1000, max_frames=1000, max_seconds=43200, max_streams=32
    )


def test_settings_do_not_change_once_they_are_read(tmp_path: Path) -> None:
    settings = load(tmp_path).settings
    with pytest.raises(ValidationError):
        setattr(settings, "lease", 1)  # noqa: B010 - the type checker would refuse the plain assignment


def test_the_executor_runs_by_the_environment_beside_ours_or_by_our_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    assert load(tmp_path).settings.executor_python == Path(sys.executable)
    beside = tmp_path / ".venv-executor" / "bin" / "python"
    beside.parent.mkdir(parents=True)
    beside.symlink_to(sys.executable)
    assert load(tmp_path).settings.executor_python == beside


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 5),
        (5, 5),
        (0.5, 0.5),
        ("500ms", 0.5),
        ("30s", 30),
        ("10m", 600),
        ("2h", 7200),
        ("90d", 7_776_000),
        ("1.5H", 5400),
    ],
)
def test_a_duration_is_seconds_or_a_number_with_a_unit(text: object, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "1y", "1 2", "-1s", "inf", True, None, [1]])
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        duration(text)


@pytest.mark.parametrize(
    ("text", "count"), [("7", 7), (7, 7), ("50MB", 50_000_000), ("2GiB", 2 << 30), ("1.5 kib", 1536), ("3b", 3)]
)
def test_a_size_is_bytes_or_a_number_with_a_unit(text: object, count: int) -> None:
    assert size(text) == count


def test_durations_and_sizes_are_shown_as_they_may_be_written() -> None:
    assert [show_duration(s) for s in (0.5, 5, 90, 600, 7200, 7_776_000)] == ["0.5s", "5s", "90s", "10m", "2h", "90d"]
    assert [show_size(n) for n in (1, 1536, 1 << 20, 50_000_000, 20 << 30)] == ["1", "1536", "1MiB", "50MB", "20GiB"]
    assert all(size(show_size(n)) == n for n in (1, 1000, 1024, 1536, 2**31, 10**9))


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("postgresql://u:p@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u:p:q@x@h/d", "postgresql://u:***@h/d"),
        ("postgresql:///d?user=u&password=p&x=1", "postgresql:///d?user=u&password=***&x=1"),
        ("postgresql://h/d", "postgresql://h/d"),
    ],
)
def test_a_password_is_masked_wherever_it_stands(text: str, masked: str) -> None:
    assert mask(text) == masked
