"""Which file becomes which, and what is refused before any work."""

import pytest

from lemmse.client.errors import AlreadyExists, InvalidArgument, NotFound
from lemmse.client.jobs import plan


@pytest.fixture
def tree(tmp_path):
    for name in ("a.png", "b.txt", ".hidden.png", "sub/c.TIFF", "sub/d.npy", ".cache/e.png"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def plan_jobs(*args, **options):
    return plan(*args, **options).jobs


def written(jobs, root):
    return [[str(path.relative_to(root)) for path in job.outputs] for job in jobs]


def test_a_folder_keeps_its_tree(tree):
    jobs = plan_jobs([tree / "in"], tree / "out", ["ess"], overwrite=False)
    assert written(jobs, tree) == [
        ["out/a.png", "out/a.ess.tiff"],
        ["out/sub/c.TIFF", "out/sub/c.ess.tiff"],
        ["out/sub/d.npy", "out/sub/d.ess.npy"],
    ]


def test_a_single_file_to_a_file(tree):
    jobs = plan_jobs([tree / "in/a.png"], tree / "result.png", ["variance", "ess"], overwrite=False)
    assert written(jobs, tree) == [["result.png", "result.ess.tiff", "result.variance.tiff"]]


def test_a_single_file_to_a_file_of_a_format_that_is_not_written(tree):
    with pytest.raises(InvalidArgument, match=r"--out: expected a name in \.png like INPUT, got .*b\.jpg"):
        plan([tree / "in/a.png"], tree / "b.jpg", [], overwrite=False)
    (tree / "b.jpg").mkdir()
    jobs = plan_jobs([tree / "in/a.png"], tree / "b.jpg", [], overwrite=False)
    assert written(jobs, tree) == [["b.jpg/a.png"]]


def test_a_single_file_to_a_folder(tree):
    assert written(plan_jobs([tree / "in/a.png"], tree / "out", [], overwrite=False), tree) == [["out/a.png"]]


def test_several_files_go_to_a_folder_whatever_its_name(tree):
    files = [tree / "in/a.png", tree / "in/sub/d.npy"]
    jobs = plan_jobs(files, tree / "out.png", [], overwrite=False)
    assert written(jobs, tree) == [["out.png/a.png"], ["out.png/d.npy"]]


def test_refusals(tree):
    def refused(kind, words, inputs, out="out", maps=(), overwrite=False):
        with pytest.raises(kind, match=words):
            plan([tree / name for name in inputs], tree / out, maps, overwrite=overwrite)

    (tree / "empty").mkdir()
    (tree / "taken/a.png").mkdir(parents=True)
    (tree / "nowhere").symlink_to("gone")
    (tree / "in/a.tiff").touch()
    refused(NotFound, "which does not exist", ["nope.png"])
    refused(NotFound, "expected images .* in .*empty, got none", ["empty"])
    refused(InvalidArgument, r"got .*b\.txt", ["in/b.txt"])
    refused(InvalidArgument, r"--out: expected a name in \.png", ["in/a.png"], out="a.tiff")
    refused(AlreadyExists, "expected a folder, got the file", ["in"], out="in/b.txt")
    refused(AlreadyExists, "expected a folder, got the file", ["in"], out="nowhere")
    refused(InvalidArgument, "--out: cannot write to .*: Not a directory", ["in"], out="in/b.txt/out")
    refused(InvalidArgument, "--out: cannot write to .*: No such file", ["in/a.png"], out="nowhere/a.png")
    refused(InvalidArgument, "got the folder .*taken", ["in/a.png"], out="taken", overwrite=True)
    refused(AlreadyExists, "pass --overwrite", ["in/a.png"], out="in")
    refused(AlreadyExists, "pass --overwrite", ["in/a.png"], out="in/a.png")
    refused(InvalidArgument, "would both be written", ["in/a.png", "in"], overwrite=True)
    refused(InvalidArgument, "would both be written", ["in/a.png", "in/a.tiff"], maps=["ess"])
    assert len(plan_jobs([tree / "in"], tree / "in", [], overwrite=True)) == 4
    assert not (tree / "out").exists()
