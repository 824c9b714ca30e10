"""Models by name, against a hub on the loopback with huggingface_hub's own client."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from fixtures.hub import FakeHub
from gllm import LLM
from gllm.config import ModelSource
from gllm.hub.download import download, download_to, find_on_hub
from gllm.hub.errors import HubError
from gllm.hub.locate import locate
from gllm.hub.name import HubName

NAME = HubName("org/name")
CONFIG = json.dumps(
    {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 64,
    }
).encode()
"""The config of a supported model."""
OLD, NEW = b"A" * 30_000, b"B" * 30_000


def files(weights: bytes = OLD, **more: bytes) -> dict[str, bytes]:
    small = {"config.json": b'{"weights": "%c"}' % weights[0], "tokenizer.json": b"{}"}
    return {**small, "model.safetensors": weights, "README.md": b"# read", "pytorch_model.bin": weights, **more}


def sharded(letter: bytes) -> dict[str, bytes]:
    shards = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    index = {"weight_map": {f"w{number}": shard for number, shard in enumerate(shards)}}
    return {
        "config.json": b'{"weights": "%s"}' % letter,
        "tokenizer.json": b"{}",
        "model.safetensors.index.json": json.dumps(index).encode(),
        **{shard: letter * (30_000 + number) for number, shard in enumerate(shards)},
    }


def find(name: HubName = NAME, *, weights: bool = True) -> tuple[Path, list[str]]:
    reported: list[str] = []
    return find_on_hub(name, weights=weights, report=reported.append), reported


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_only_needed_files_are_downloaded_and_once(hub: FakeHub) -> None:
    repo = hub.repo("org/name", files())
    folder, reported = find()
    assert folder.parts[-4:] == ("cache", "models--org--name", "snapshots", repo.revisions["main"])
    assert content(folder) == {
        name: data for name, data in files().items() if name not in ("README.md", "pytorch_model.bin")
    }
    assert reported[0].startswith(f"downloading org/name at {repo.revisions['main'][:12]}: 3 files, ")
    assert sorted(hub.downloads()) == ["config.json", "model.safetensors", "tokenizer.json"]
    # Where huggingface_hub and transformers look for it.
    from huggingface_hub import snapshot_download

    assert snapshot_download("org/name", local_files_only=True) == str(folder)


def test_a_cached_model_is_used_without_a_request(hub: FakeHub) -> None:
    hub.repo("org/name", files())
    folder, _ = find()
    hub.requests.clear()
    hub.repos["org/name"].commit(files(NEW))
    assert find() == (folder, [])
    assert hub.requests == []
    # `gllm fetch` brings the new commit.
    new = download(NAME, report=lambda line: None)
    assert (new / "model.safetensors").read_bytes() == NEW
    assert find()[0] == new != folder


def test_a_branch_that_moves_during_the_download_does_not_mix_two_commits(hub: FakeHub) -> None:
    repo = hub.repo("org/name", sharded(b"A"))
    first = repo.revisions["main"]
    hub.cuts, hub.on_cut = 1, lambda: repo.commit(sharded(b"B"))
    folder, _ = find()
    assert content(folder) == sharded(b"A")
    assert folder.name == first != repo.revisions["main"]
    # The connection broke after half of a shard. Only the other half was requested again.
    assert hub.ranges == ["bytes=15000-"]


def test_an_abandoned_download_resumes_at_the_newest_commit(hub: FakeHub) -> None:
    repo = hub.repo("org/name", sharded(b"A"))
    hub.cuts = 100
    with pytest.raises(HubError, match="org/name cannot be downloaded from http://127"):
        find()
    hub.cuts, hub.requests = 0, []
    folder, _ = find()
    assert content(folder) == sharded(b"A")
    assert "config.json" not in hub.downloads()  # The cache had it already.
    repo.commit(sharded(b"B"))
    hub.cuts = 100
    with pytest.raises(HubError):
        download(NAME, report=lambda line: None)
    hub.cuts = 0
    assert find()[0] == folder  # The complete download of the old commit is still used.
    assert content(download(NAME, report=lambda line: None)) == sharded(b"B")


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub: FakeHub) -> None:
    repo = hub.repo("org/name", files(OLD))
    first = repo.revisions["main"]
    repo.revisions["v1"] = first
    repo.commit(files(NEW))
    for revision in ("v1", first):
        assert find(HubName("org/name", revision))[0].name == first
    assert find()[0].name == repo.revisions["main"] != first
    with pytest.raises(HubError, match="org/name has no revision v9: see http"):
        find(HubName("org/name", "v9"))


def test_dummy_weights_download_no_weights(hub: FakeHub) -> None:
    hub.repo("org/name", files())
    folder, _ = find(weights=False)
    assert set(content(folder)) == {"config.json", "tokenizer.json"}
    assert find(weights=False) == (folder, [])
    assert (find()[0] / "model.safetensors").exists()


def test_a_cache_that_others_filled_is_completed_at_its_own_commit(hub: FakeHub) -> None:
    from huggingface_hub import hf_hub_download

    repo = hub.repo("org/name", {**files(OLD), "generation_config.json": b'{"eos_token_id": 7}'})
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        hf_hub_download("org/name", name)
    first = repo.revisions["main"]
    repo.commit(files(NEW))
    hub.requests.clear()
    folder, _ = find()
    assert folder.name == first
    assert hub.downloads() == ["generation_config.json"]
    assert find() == (folder, [])


def test_a_cached_model_is_served_when_the_hub_is_unreachable(hub: FakeHub) -> None:
    from huggingface_hub import hf_hub_download

    hub.repo("org/name", files())
    for name in ("config.json", "model.safetensors"):
        folder = Path(hf_hub_download("org/name", name)).parent
    hub.failing = 10**6
    found, reported = find()
    assert found == folder
    assert "answered 500 for org/name" in reported[-1]
    assert reported[-1].endswith("it is used as the cache has it")


def test_a_cache_that_was_filled_by_hand_is_used(hub: FakeHub, tmp_path: Path) -> None:
    repository = tmp_path / "cache" / "models--Org--Tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc123")
    snapshot = repository / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    for file in ("config.json", "tokenizer.json", "model.safetensors"):
        (snapshot / file).write_text("{}")
    found, reported = find(HubName("Org/Tiny"))
    assert found == snapshot
    assert reported == [
        f"there is no model Org/Tiny at {hub.url}; if it is private, set HF_TOKEN to a token that may read it; "
        "it is used as the cache has it"
    ]


@pytest.mark.parametrize("cached", [False, True])
def test_offline(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, cached: bool) -> None:
    hub.repo("org/name", files())
    folder = find()[0] if cached else None
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    if cached:
        assert find() == (folder, [])
    else:
        with pytest.raises(HubError, match=r"org/name is not in the cache .*/cache, and HF_HUB_OFFLINE forbids"):
            find()
    assert hub.requests == []


def test_gated_and_private_models_need_a_token(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repo("org/gated", files()).gated = True
    hub.repo("org/private", files()).private = True
    with pytest.raises(
        HubError, match=r"org/gated is gated: ask for access at http://127.*/org/gated, then set HF_TOKEN"
    ):
        find(HubName("org/gated"))
    for name in ("org/private", "org/none"):
        with pytest.raises(HubError, match=f"there is no model {name} at http://127.*; if it is private, set HF_TOKEN"):
            find(HubName(name))
    monkeypatch.setenv("HF_TOKEN", "wrong")
    with pytest.raises(HubError, match="org/gated is gated"):
        find(HubName("org/gated"))
    monkeypatch.setenv("HF_TOKEN", hub.token)
    for name in ("org/gated", "org/private"):
        assert (find(HubName(name))[0] / "model.safetensors").exists()


def test_a_disk_that_is_too_small_is_an_error_before_the_download(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repo("org/name", files())
    monkeypatch.setattr("gllm.hub.download.shutil.disk_usage", lambda path: _Usage(1000))
    with pytest.raises(HubError, match=r"the model needs 0\.0 MB, but .* has 0\.0 MB free: make room there"):
        find()
    assert hub.downloads() == []


def test_a_disk_that_fills_up_on_the_way(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repo("org/name", files())

    def full(*arguments: object, **more: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device", "/cache/blob")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", full)
    with pytest.raises(HubError, match="no space is left for org/name: make room, or choose"):
        find()


def test_an_unreachable_hub_and_no_cached_model(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repo("org/name", files())
    hub.failing = 10**6
    with pytest.raises(HubError, match=r"^http://127.* answered 500 for org/name: "):
        find()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(HubError, match=r"^org/name cannot be downloaded from http://127\.0\.0\.1:1: .*refused"):
        find()


class _Usage:
    def __init__(self, free: int) -> None:
        self.free = free


def test_gguf_files_by_quantization(hub: FakeHub) -> None:
    quantized = {"m-Q4_K_M.gguf": b"4" * 20_000, "m-Q8_0.gguf": b"8" * 20_000, "README.md": b""}
    hub.repo("org/name-GGUF", quantized)
    for name, file in (("", "m-Q4_K_M.gguf"), ("Q8_0", "m-Q8_0.gguf"), ("m-Q8_0.gguf", "m-Q8_0.gguf")):
        path, _ = find(HubName("org/name-GGUF", gguf=name))
        assert (path.name, path.read_bytes()) == (file, quantized[file])
    assert sorted(hub.downloads()) == ["m-Q4_K_M.gguf", "m-Q8_0.gguf"]
    with pytest.raises(
        HubError, match=r"org/name-GGUF:Q2_K cannot be served: it has no GGUF file Q2_K; there are m-Q4"
    ):
        find(HubName("org/name-GGUF", gguf="Q2_K"))


def test_the_folder_appears_when_it_is_complete(hub: FakeHub, tmp_path: Path) -> None:
    repo = hub.repo("org/name", sharded(b"A"))
    folder = tmp_path / "org" / "name" / "main"
    hub.cuts = 100
    with pytest.raises(HubError):
        download_to(NAME, folder, report=lambda line: None)
    assert not folder.exists()
    repo.commit(sharded(b"B"))
    hub.cuts = 0
    download_to(NAME, folder, report=lambda line: None)
    assert content(folder) == sharded(b"B")
    assert [path.name for path in folder.parent.iterdir()] == ["main"]
    reported: list[str] = []
    download_to(NAME, folder, report=reported.append)
    assert reported == [f"{folder} is there already"]


def test_a_path_that_exists_wins_over_a_name(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    hub.repo("org/name", files() | {"config.json": CONFIG})

    def place(model: str, **source: str) -> tuple[Path, str]:
        return locate(model, ModelSource(**source), weights=True, report=lambda line: None)

    assert place("org/name")[1] == "org/name"
    assert place("hf://org/name")[1] == "org/name"
    other = place("org/name", download_dir=str(tmp_path / "other"))[0]
    assert other.is_relative_to(tmp_path / "other")
    (tmp_path / "org" / "name").mkdir(parents=True)
    (tmp_path / "org" / "name" / "config.json").write_text("{}")
    assert place("org/name") == (tmp_path / "org" / "name", "name")
    with pytest.raises(ValueError, match="--revision v1 belongs to a model of the hub; org/name is a path here"):
        place("org/name", revision="v1")
    with pytest.raises(ValueError, match=r"there is no model org/typo at .*; and there is no path org/typo here"):
        place("org/typo")
    hub.requests.clear()
    for path in ("./org/other", "/org/other", "org/name/other/x", "org/other.gguf"):
        with pytest.raises(ValueError, match=r"there is no .*: looked for a folder"):
            place(path)
    for almost in ("gpt2", "hf://gpt2", "https://huggingface.co/org/other", "hf.co/org/other:Q8_0"):
        with pytest.raises(ValueError, match=r"there is no .*; a model of the hub is named ORG/NAME"):
            place(almost)
    assert hub.requests == []


def test_the_command_and_the_variables_of_huggingface_hub(hub: FakeHub, tmp_path: Path) -> None:
    """In a process of its own: the library reads its variables when it is imported."""
    hub.repo("org/name", files()).gated = True

    def gllm(*arguments: str, **variables: str) -> tuple[int, str, str]:
        environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
        environment |= variables
        command = [sys.executable, "-m", "gllm", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout.strip(), done.stderr.strip()

    status, _, error = gllm("fetch", "org/name")
    assert status == 1
    assert error.splitlines()[-1].startswith(
        f"gllm: error: org/name is gated: ask for access at {hub.url}/org/name, then set HF_TOKEN"
    )
    status, output, error = gllm("fetch", "org/name", HF_TOKEN=hub.token)
    assert (status, output) == (
        0,
        str(tmp_path / "home/hub/models--org--name/snapshots" / hub.repos["org/name"].revisions["main"]),
    )
    assert [line.split()[:3] for line in error.splitlines()] == [
        ["gllm:", "downloading", "org/name"],
        ["gllm:", "downloading", "model.safetensors,"],
    ]
    hub.requests.clear()
    # Found in the cache; what comes next fails for another reason.
    status, _, error = gllm("serve", "org/name", "--pp", "2", HF_HUB_OFFLINE="1", COLUMNS="300")
    assert status == 2
    assert "models--org--name" in error
    assert hub.requests == []
    status, _, error = gllm("serve", "org/other", HF_HUB_OFFLINE="1", COLUMNS="300")
    assert (status, "org/other is not in the cache" in error) == (2, True)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"config.json": CONFIG.replace(b"Llama", b"Gemma2")}, "architectures 'Gemma2ForCausalLM' is not supported"),
        ({"config.json": CONFIG.replace(b"{", b'{"quantization_config": {"quant_method": "awq"},')}, "awq"),
        ({"tokenizer.json": None, "tokenizer.model": b""}, "no tokenizer.json but a SentencePiece tokenizer.model"),
    ],
)
def test_an_unsupported_model_is_refused_before_its_weights_are_downloaded(
    hub: FakeHub, changed: dict[str, bytes | None], message: str
) -> None:
    given: dict[str, bytes | None] = {**files(), "config.json": CONFIG, **changed}
    hub.repo("org/name", {name: data for name, data in given.items() if data is not None})
    with pytest.raises(ValueError, match=message):
        locate("org/name", ModelSource(), weights=True, report=lambda line: None)
    assert "model.safetensors" not in hub.downloads()


def test_the_python_api_takes_a_name(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = hub.repo("org/name", files() | {"config.json": CONFIG})
    repo.revisions["v1"] = repo.revisions["main"]
    monkeypatch.setattr("gllm.apps.offline.llm.LLM._start", lambda self, config, *more: setattr(self, "config", config))
    llm = LLM("org/name", revision="v1", load_format="dummy")
    assert Path(llm.config.engine.model).name == repo.revisions["v1"]
    assert not (Path(llm.config.engine.model) / "model.safetensors").exists()
    assert (Path(LLM("org/name", revision="v1").config.engine.model) / "model.safetensors").exists()


def test_a_manifest_that_names_a_model_of_the_hub_runs_without_a_cluster(hub: FakeHub, tmp_path: Path) -> None:
    from gllm_operator.local.manifest import read_deployments
    from gllm_operator.local.run import prepare

    repo = hub.repo("org/name", files())
    path = tmp_path / "manifest.yaml"
    path.write_text("""
apiVersion: gllm.dev/v1alpha1
kind: LLMDeployment
metadata: {name: small}
spec:
  image: gllm
  model: {source: "hf://org/name"}
  accelerator: {type: cpu}
""")
    (deployment,) = read_deployments(str(path))
    (pod,) = prepare(deployment, {}, io.StringIO())
    assert Path(pod.arguments[1]).name == repo.revisions["main"]
    assert pod.arguments[pod.arguments.index("--served-model-name") + 1] == "name"
