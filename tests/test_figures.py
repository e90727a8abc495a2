"""Maps, clusters, confusions and spectra of features against known answers; the verbs that draw them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import silhouette_score
from torch import Tensor

import selfsight
from selfsight import cli
from selfsight.analysis.clusters import agreement, cluster_gallery, clusters_of, default_count, neighbour_gallery
from selfsight.analysis.confusion import confusion
from selfsight.analysis.figures import FIGURES, figures
from selfsight.analysis.gather import Gathered, Rows, gather
from selfsight.analysis.maps import colourings, project, silhouette
from selfsight.analysis.spectrum import spectrum
from selfsight.analysis.summary import analyse, arrays_of, full_report, header_of
from selfsight.errors import WrongUse
from selfsight.evaluate.linear import ridge
from selfsight.report.found import Found, mistakes, read_found


def blobs(count: int = 90, kinds: int = 3, noise: float = 0.1, dim: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features of classes in orthogonal directions, and labels."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % kinds
    return torch.eye(dim)[labels] + noise * torch.randn(count, dim, generator=g), labels


def made(noise: float = 0.1, labelled: bool = True, pictures: bool = True, count: int = 90, kinds: int = 3) -> Gathered:
    """Gathered features of blobs; picture i is all of gray i."""

    def rows(seed: int, part: str) -> Rows:
        x, y = blobs(count, kinds, noise, seed=seed)
        shown = np.repeat(np.arange(count, dtype=np.uint8)[:, None, None, None], 8, 1).repeat(8, 2).repeat(3, 3)
        names = [f"{part}/{i}.png" for i in range(count)]
        return Rows(x, y if labelled else None, shown if pictures else None, names, part, count, np.arange(count))

    names = [f"kind {i} <b>" for i in range(kinds)]
    return Gathered(rows(1, "holdout"), rows(2, "train"), names if labelled else None, "run", "blobs", 0, {"step": 7})


@pytest.mark.parametrize("kind", ["tsne", "pca", "umap"])
def test_maps_keep_groups_together_and_repeat(kind: Any) -> None:
    if kind == "umap":
        pytest.importorskip("umap", reason="umap-learn is an optional extra")
    x, y = blobs()
    first, again, other = project(x, kind, 3), project(x, kind, 3), project(x, kind, 4, most=40)
    assert np.array_equal(first.points, again.points)
    assert first.points.shape == (90, 2)
    assert np.abs(first.points).max() == pytest.approx(1)
    assert silhouette_score(first.points, y.numpy()) > 0.7
    assert (len(other.rows), first.kind) == (40, kind)
    assert (np.diff(other.rows) > 0).all()
    assert "40 of 90 pictures" in other.about


def test_pca_is_the_projection_on_the_largest_axes() -> None:
    x, _ = blobs()
    unit = torch.nn.functional.normalize(x).double()
    unit = unit - unit.mean(0)
    _, values, axes = torch.linalg.svd(unit, full_matrices=False)
    points = (unit @ axes[:2].T).numpy()
    got = project(x, "pca").points.astype(float)
    for i in range(2):  # up to sign and the common scale
        assert abs(np.corrcoef(points[:, i], got[:, i])[0, 1]) == pytest.approx(1, abs=1e-5)
    assert f"{float(values[:2].square().sum() / values.square().sum()):.0%}" in project(x, "pca").about


def test_without_umap_the_map_is_pca_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    x, _ = blobs()
    found = project(x, "umap")
    assert found.kind == "pca"
    assert "UMAP was asked for and is not installed" in found.about
    assert np.array_equal(found.points, project(x, "pca").points)


@pytest.mark.parametrize("kind", ["tsne", "pca"])
def test_a_collapsed_encoder_has_a_map(kind: Any) -> None:
    assert np.isfinite(project(torch.ones(30, 8), kind).points).all()


def test_maps_refuse() -> None:
    with pytest.raises(WrongUse, match="Perhaps you meant 'tsne'"):
        project(blobs()[0], "t-sne")  # type: ignore[arg-type]
    with pytest.raises(WrongUse, match="3 pictures make no map"):
        project(torch.zeros(3, 4))


def test_silhouette_by_the_definition() -> None:
    x, y = blobs(24, noise=0.5)
    unit = torch.nn.functional.normalize(x).double().numpy()
    far = 1 - unit @ unit.T
    scores = []
    for i in range(24):
        own = [far[i, j] for j in range(24) if y[j] == y[i] and j != i]
        others = [np.mean([far[i, j] for j in range(24) if y[j] == k]) for k in range(3) if k != y[i]]
        a, b = np.mean(own), min(others)
        scores.append((b - a) / max(a, b))
    groups = y.numpy()
    assert silhouette(x, groups) == pytest.approx(np.mean(scores), abs=1e-6)
    assert silhouette(x, np.where(groups == 0, 0, -1)) is None  # one group alone


def test_clusters_are_found_largest_first() -> None:
    x, y = blobs(100, noise=0.05)
    x, y = x[y.ne(2) | (torch.arange(100) < 60)], y[y.ne(2) | (torch.arange(100) < 60)]
    found = clusters_of(x, 3)
    assert agreement(found.labels, y.numpy()) == pytest.approx(1)
    sizes = np.bincount(found.labels)
    assert (np.diff(sizes) <= 0).all()
    assert np.array_equal(found.labels, clusters_of(x, 3).labels)
    assert agreement(found.labels, np.full(len(x), -1)) is None
    with pytest.raises(WrongUse, match="give from 1 to"):
        clusters_of(x, 1000)


def test_galleries_show_the_nearest() -> None:
    found = made()
    groups = clusters_of(found.asked.features, default_count(found))
    arrays = cluster_gallery(found, groups, count=5)
    unit = torch.nn.functional.normalize(found.asked.features)
    for i in range(3):
        own = np.flatnonzero(groups.labels == i)
        near = sorted(own, key=lambda row: -float(unit[row] @ groups.centroids[i]))[:5]
        assert arrays["cluster_rows"][i].tolist() == near
    assert arrays["cluster_purity"].tolist() == [1, 1, 1]
    assert sorted(arrays["cluster_class"].tolist()) == [0, 1, 2]
    shown = neighbour_gallery(found, count=4, k=3)
    bank = torch.nn.functional.normalize(found.bank.features)  # type: ignore[union-attr]
    for picture, others in zip(shown["query"], shown["neighbours"]):  # picture i is of gray i
        row = int(picture[0, 0, 0])
        best = (bank @ unit[row]).topk(3).indices
        assert others[:, 0, 0, 0].tolist() == best.tolist()
    assert neighbour_gallery(made(pictures=False)) == {}


def test_confusions_count_what_the_probe_says() -> None:
    found = made(noise=0.6)
    table = confusion(found)
    labels = found.labels
    assert labels is not None
    for i in range(3):
        for j in range(3):
            assert table.counts[i, j] == int(((labels == i) & (table.predicted == j)).sum())
    assert table.accuracy == pytest.approx((labels == table.predicted).mean())
    assert table.per_class == pytest.approx([(table.predicted[labels == i] == i).mean() for i in range(3)])
    linear = confusion(found, "linear")
    bank = found.bank
    assert bank is not None
    assert bank.labels is not None
    assert found.asked.labels is not None
    known = ridge(bank.features, bank.labels, found.asked.features, found.asked.labels, 3)
    assert linear.accuracy == pytest.approx(known["top1"])
    with pytest.raises(WrongUse, match="no labels"):
        confusion(made(labelled=False))


def test_the_spectrum_is_that_of_the_centred_features() -> None:
    x, _ = blobs(60, noise=0.3)
    found = spectrum(x)
    values = np.linalg.svd((x - x.mean(0)).double().numpy(), compute_uv=False)
    assert found.values.numpy() == pytest.approx(values / values[0], rel=1e-6)
    share = values / values.sum()
    assert found.effective_rank == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-6)
    assert found.half == int(np.searchsorted((values**2).cumsum() / (values**2).sum(), 0.5)) + 1
    wide = spectrum(x[:10])
    assert (wide.values > 0).sum() == wide.possible == 9  # centred rows of ten pictures
    with pytest.raises(WrongUse, match="finite"):
        spectrum(torch.full((4, 4), torch.nan))


# ---------------------------------------------------------------- colours


def test_columns_of_a_table_colour_the_map(tmp_path: Path) -> None:
    found = made()
    groups = clusters_of(found.asked.features, 3)
    table = tmp_path / "t.csv"
    rows = [f"{i}.png,{'old' if i % 2 else 'young'},{i / 7:.3f},{i % 4}" for i in range(80)]  # the last ten are missing
    table.write_text("\n".join(["image,age,height,legs", *rows]))
    age, height, legs, cluster = colourings(found, ["age", "height", "legs", "cluster"], groups, table)
    assert age.names == ["old", "young"]
    assert age.values[:4].tolist() == [1, 0, 1, 0]
    assert age.values[80:].tolist() == [-1] * 10
    assert age.score.startswith("silhouette ")
    assert height.names is None  # a scale
    assert height.values[7] == pytest.approx(1)
    assert np.isnan(height.values[80:]).all()
    assert legs.names == ["0", "1", "2", "3"]
    nmi = agreement(groups.labels, age.values)
    assert cluster.score == f"NMI with age {nmi:.3f}"
    alone = colourings(found, ["cluster"], groups)[0]
    assert alone.score == "NMI with label 1.000"


def test_celebas_own_table_and_rows_in_order(tmp_path: Path) -> None:
    found = made()
    groups = clusters_of(found.asked.features, 3)
    table = tmp_path / "list_attr_celeba.txt"
    rows = [f"{i}.png  {1 if i < 30 else -1} -1" for i in range(90)]
    table.write_text("\n".join(["90", "Smiling Hat", *rows]))
    smiling = colourings(found, ["Smiling"], groups, table)[0]
    assert smiling.names == ["not Smiling", "Smiling"]
    assert smiling.values.tolist() == [1] * 30 + [0] * 60
    plain = tmp_path / "plain.tsv"
    plain.write_text("\n".join(["who\thow", *(f"a{i % 5}\t{i}" for i in range(90))]))
    assert colourings(found, ["who"], groups, plain)[0].values[:6].tolist() == [0, 1, 2, 3, 4, 0]


def test_wrong_colours_say_what_to_do(tmp_path: Path) -> None:
    found, table = made(), tmp_path / "t.csv"
    groups = clusters_of(found.asked.features, 3)
    with pytest.raises(WrongUse, match="no labels: colour by cluster"):
        colourings(made(labelled=False), ["label"], groups)
    with pytest.raises(WrongUse, match="label, cluster, or a column"):
        colourings(found, ["Smiling"], groups)
    with pytest.raises(WrongUse, match="cannot be read"):
        colourings(found, ["age"], groups, table)
    table.write_text("file,age\n1.png,3\n2.png,4,5\n")
    with pytest.raises(WrongUse, match="Perhaps you meant 'age'"):
        colourings(found, ["aeg"], groups, table)
    with pytest.raises(WrongUse, match="a row of 3 cells under 2 columns"):
        colourings(found, ["age"], groups, table)
    table.write_text("file,age\nx.png,3\n")
    with pytest.raises(WrongUse, match="names none of the pictures"):
        colourings(found, ["age"], groups, table)
    table.write_text("age\n3\n")
    with pytest.raises(WrongUse, match="give a row for each picture"):
        colourings(found, ["age"], groups, table)


# ---------------------------------------------------------------- files, runs, verbs


def test_arrays_hold_what_they_say() -> None:
    arrays = arrays_of(made(), "pca")
    header = json.loads(str(arrays["header"]))
    assert header["clusters"]["nmi"] == pytest.approx(1)
    assert header["knn"]["top1"] == header["linear"]["top1"] == 1
    assert arrays["confusion_knn"].tolist() == [[30, 0, 0], [0, 30, 0], [0, 0, 30]]
    plain = arrays_of(made(labelled=False, pictures=False), "pca")
    assert not {"sheet", "labels", "confusion_knn", "cluster_pictures", "query"} & plain.keys()
    assert {"points", "clusters", "spectrum"} <= plain.keys()
    broken = made()
    broken.asked.features[0, 0] = torch.nan
    with pytest.raises(WrongUse, match="diverged"):
        arrays_of(broken)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tiny"
    selfsight.pretrain("simclr", recipe="tiny", out=out, quiet=True, epochs=1)
    return out


def test_gathering_takes_the_hold_out_and_a_bank(run: Path, tmp_path: Path) -> None:
    found = gather(run, pictures=20, bank=30)
    assert (len(found.asked.features), len(found.bank.features)) == (20, 30)  # type: ignore[union-attr]
    assert found.asked.part == "holdout"
    assert found.asked.pictures is not None
    same = gather(run, pictures=20, bank=30)
    assert torch.equal(found.asked.features, same.asked.features)
    encoder = selfsight.load(run)
    x = (
        torch.from_numpy(found.asked.pictures).permute(0, 3, 1, 2) / 255
    )  # pictures of 32 px or less are kept as they are
    with torch.no_grad():
        assert torch.allclose(encoder(x), found.asked.features, atol=2e-2)
    own = gather(run, data="shapes:16:60", pictures=0, bank=0, image_size=16)
    assert own.asked.total == len(own.asked.features)
    assert own.labelled
    pixels = np.random.default_rng(0).integers(0, 255, (40, 16, 16, 3), dtype=np.uint8)
    np.save(tmp_path / "heap.npy", pixels)  # no labels, no parts: the bank is what is not asked
    heap = gather(run, data=str(tmp_path / "heap.npy"), pictures=15, image_size=16)
    assert (heap.asked.part, heap.labelled) == ("train", False)
    rest = heap.bank
    assert rest is not None
    assert sorted([*heap.asked.index, *rest.index]) == list(range(40))
    assert heap.asked.pictures is not None
    assert np.array_equal(heap.asked.pictures, pixels[heap.asked.index])
    with pytest.raises(WrongUse, match="stands for both parts"):
        gather(run, data="shapes", train="shapes")
    with pytest.raises(WrongUse, match="none may be negative"):
        gather(run, pictures=-1)


def test_a_report_of_a_run_is_computed_once(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        cli.run(["report", str(run), "--out", str(tmp_path / "r.html"), "--kind", "pca", "--pictures", "30", "--json"])
        == 0
    )
    assert json.loads(capsys.readouterr().out) == {"out": str(tmp_path / "r.html")}
    text = (tmp_path / "r.html").read_text()
    for title in ("map", "mistakes", "nearest-neighbours", "clusters", "spectrum", "how-to-repeat-it"):
        assert f'<section id="{title}">' in text, title
    own = run / "figures" / "analysis.npz"
    at = own.stat().st_mtime_ns
    assert analyse(run, kind="pca", pictures=30) == own
    assert own.stat().st_mtime_ns == at
    analyse(run, kind="pca", pictures=25)
    assert own.stat().st_mtime_ns > at
    assert header_of(own)["pictures"] == 25
    other = analyse(run, kind="pca", pictures=25, data="shapes:16:60")
    assert other != own  # other pictures do not take the place of the run's own
    told = mistakes([("r", Found({"confusion_knn": np.array([[5, 3, 0], [1, 9, 4], [0, 0, 7]]), "class_names": list("abc")},
                                 {"knn": {"protocol": "p", "top1": 21 / 29}}))])  # fmt: skip
    assert "Most often mistaken: b taken for c (4 of 14); a taken for b (3 of 8); b taken for a (1 of 14)." in told
    found = read_found(other)
    assert found is not None
    assert "shapes:16:60" in found.where


def test_data_that_are_gone_leave_a_sentence(run: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    for name in ("metrics.jsonl", "results.json", "encoder.safetensors"):
        (gone / name).write_bytes((run / name).read_bytes())
    text = (run / "run.yaml").read_text()
    (gone / "run.yaml").write_text(text.replace("data: shapes", f"data: {tmp_path}/pictures", 1))
    page = full_report([gone], tmp_path / "r.html").read_text()
    assert "There is no map, no confusion matrix and no gallery. gone: there is no" in page
    assert '<section id="training">' in page
    quick = tmp_path / "q.html"
    assert cli.run(["report", str(gone), "--quick", "--out", str(quick)]) == 0
    assert "Not computed yet." in quick.read_text()
    assert cli.run(["report", str(gone), "--out", str(tmp_path / "x.html"), "--data", str(tmp_path / "nothing/")]) == 2
    assert cli.run(["report", str(gone), "--quick", "--data", "shapes", "--out", str(quick)]) == 2
    assert cli.run(["report", str(gone), "--out", str(tmp_path)]) == 2


def test_figures_of_a_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "f"
    words = ["figures", str(run), "--out", str(out), "--kind", "pca", "--pictures", "30", "--html", "--json"]
    assert cli.run(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["files"]) == {*FIGURES, "page"} - {"attention"}
    assert "vision transformer" in found["left_out"]["attention"]
    for name, path in found["files"].items():
        if name != "page":
            image = Image.open(path)
            assert min(image.size) > 100
            assert len(np.unique(np.asarray(image.convert("L")))) > 10
    page = Path(found["files"]["page"]).read_text()
    assert "http" not in page.replace("http-equiv", "")
    assert 'id="map0"' in page
    assert 0 <= found["confusion"]["top1"] <= 1
    assert cli.run(words) == 2  # a file that is there is not replaced
    assert cli.run(["figures", str(run), "--out", str(tmp_path / "g"), "--which", "curves,attention"]) == 2
    assert not list((tmp_path / "g").iterdir())  # nothing half done
    assert cli.run(["figures", str(run), "--out", str(tmp_path / "g"), "--which", "mapp"]) == 2
    assert "Perhaps you meant 'map'" in capsys.readouterr().err
    assert cli.run(["figures", str(run)]) == 2


def test_two_panels_of_a_file_of_features(run: Path, tmp_path: Path) -> None:
    """V08: the attribute at the left, clusters at the right."""
    file = tmp_path / "f.npz"
    selfsight.embed(run, "shapes:16:60", file, image_size=16)
    table = tmp_path / "t.csv"
    count = len(np.load(file)["features"])
    table.write_text("\n".join(["big", *("yes" if i % 3 else "no" for i in range(count))]))
    found = figures(file, tmp_path / "o", ["map"], kind="pca", colour=["big", "cluster"], attributes=table)
    assert list(found["map"]["scores"]) == ["big", "cluster"]
    assert found["map"]["scores"]["cluster"].startswith("NMI with big ")
    wide, high = Image.open(tmp_path / "o" / "map.png").size
    assert wide > 1.4 * high
    drawn = figures(file, tmp_path / "p")
    assert set(drawn["files"]) == {"map", "spectrum"}
    assert "features alone" in drawn["left_out"]["clusters"]
    shown = figures(file, tmp_path / "q", ["clusters"], data="shapes:16:60")
    assert Path(shown["files"]["clusters"]).is_file()
    with pytest.raises(WrongUse, match="give its own data"):
        figures(file, tmp_path / "r", ["clusters"], data="shapes:16:80")
    both = tmp_path / "both.npz"
    selfsight.evaluate(run, train="shapes:16:60", protocols=["knn"], out=both, image_size=16)
    assert {"confusion", "classes"} <= set(figures(both, tmp_path / "s", probe="linear")["files"])


def test_attention_of_a_transformer(tmp_path: Path) -> None:
    out = tmp_path / "vit"
    selfsight.pretrain("ibot", recipe="tiny", out=out, quiet=True, epochs=1)
    found = figures(out, tmp_path / "f", ["attention", "views"])
    assert set(found["files"]) == {"attention", "views"}
