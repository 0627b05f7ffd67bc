"""Human captions: every format in use, recognised by content; every fault in one sentence with its place."""

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capt.errors import InputError
from capt.references import References, read_image_list, read_references

CAPTIONS = {"1000.jpg": ("A dog runs .", 'A "brown" dog, running'), "2000.jpg": ("Two men | one bench", "Deux hommes, été")}

TOKEN = "".join(f"{name}#{i}\t{text}\n" for name, texts in CAPTIONS.items() for i, text in enumerate(texts))
KAGGLE = 'image_name| comment_number| comment\n1000.jpg| 0| A dog runs .\n1000.jpg| 1   A "brown" dog, running\n'
KARPATHY = json.dumps(
    {
        "dataset": "flickr30k",
        "images": [
            {"filename": name, "split": split, "sentences": [{"raw": text, "tokens": []} for text in texts]}
            for (name, texts), split in zip(CAPTIONS.items(), ("train", "test"), strict=True)
        ],
    }
)
COCO = json.dumps(
    {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(CAPTIONS)],
        "annotations": [{"id": 9, "image_id": i, "caption": text} for i, texts in enumerate(CAPTIONS.values()) for text in texts],
    }
)
CSV = (
    'filename,caption\n1000.jpg,A dog runs .\n1000.jpg,"A ""brown"" dog, running"\n'
    '2000.jpg,Two men | one bench\n2000.jpg,"Deux hommes, été"\n'
)
TSV = "\n".join(["image\tcaption", *(f"{name}\t{text}" for name, texts in CAPTIONS.items() for text in texts)])
JSONL_ROWS = "\n".join(json.dumps({"path": name, "sentence": text}) for name, texts in CAPTIONS.items() for text in texts)
JSONL_LISTS = "\n".join(json.dumps({"image_id": name, "captions": texts}) for name, texts in CAPTIONS.items())
JSON_ROWS = json.dumps([{"image": name, "caption": texts} for name, texts in CAPTIONS.items()])


def _write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def _write_parquet(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize("text", [TOKEN, KARPATHY, COCO, CSV, TSV, JSONL_ROWS, JSONL_LISTS, JSON_ROWS])
@pytest.mark.parametrize(
    "change", [str, lambda text: "\ufeff" + text, lambda text: text.replace("\n", "\r\n"), lambda text: text + "\n\n"]
)
def test_every_text_format_gives_the_same_captions(tmp_path: Path, text: str, change: object) -> None:
    """A format is recognised by its content under any name, with a byte order mark, CRLF or blank lines."""
    assert callable(change)
    references = read_references(_write(tmp_path / "anything.dat", change(text)))
    assert references.captions == CAPTIONS


def test_kaggle_with_its_malformed_row(tmp_path: Path) -> None:
    """Kaggle's spaces are taken off, quotation marks stay, and the row without its second bar is read as meant."""
    references = read_references(_write(tmp_path / "results.csv", KAGGLE))
    assert references.captions == {"1000.jpg": CAPTIONS["1000.jpg"]}


@pytest.mark.parametrize("source", ["file", "folder", "nested", "glob"])
def test_parquet_is_read_from_file_folder_or_glob_without_images(tmp_path: Path, source: str) -> None:
    """Hugging Face parquet gives ids, captions and splits; the column of photographs is never opened."""
    folder = tmp_path / "data"
    folder.mkdir()
    photo = [{"bytes": b"not a photograph", "path": "x"}]
    for index, (name, texts) in enumerate(CAPTIONS.items()):
        _write_parquet(folder / f"{index}.parquet", image=photo, image_id=[name], caption=[list(texts)], split=["train"])
    path = {"file": folder / "0.parquet", "folder": folder, "nested": tmp_path, "glob": folder / "*.parquet"}[source]
    references = read_references(path, split="train")
    expected = {"1000.jpg": CAPTIONS["1000.jpg"]} if source == "file" else CAPTIONS
    assert references.captions == expected
    assert set(references.splits.values()) == {"train"}


def test_parquet_with_one_caption_a_row(tmp_path: Path) -> None:
    """Several rows of one image become its several captions."""
    path = _write_parquet(tmp_path / "x", filename=["a", "a", "b"], caption=["one", "two", "three"], image=[b"1", b"2", b"3"])
    assert read_references(path).captions == {"a": ("one", "two"), "b": ("three",)}


def test_coco_numbers_are_aliases_of_file_names(tmp_path: Path) -> None:
    """COCO's image number finds the image that goes by its file name; without one the number is the id."""
    assert read_references(_write(tmp_path / "x", COCO)).select(["1"]).captions == {"2000.jpg": CAPTIONS["2000.jpg"]}
    bare = json.dumps({"images": [], "annotations": [{"image_id": 7, "caption": "a dog"}]})
    assert read_references(_write(tmp_path / "x", bare)).captions == {"7": ("a dog",)}


def test_karpathy_of_coco_has_aliases(tmp_path: Path) -> None:
    """Karpathy's COCO file names an image by file name and by COCO's number."""
    image = {"filename": "COCO_7.jpg", "cocoid": 7, "split": "restval", "sentences": [{"raw": "a dog"}]}
    references = read_references(_write(tmp_path / "x", json.dumps({"images": [image]})))
    assert references.select(["7"]).captions == {"COCO_7.jpg": ("a dog",)}
    assert references.subset("restval").captions == references.captions


def test_split_selects_and_an_unknown_split_names_the_known_ones(tmp_path: Path) -> None:
    """A split that does not exist is refused with the names and sizes of those that do."""
    path = _write(tmp_path / "x", KARPATHY)
    assert set(read_references(path, split="test").captions) == {"2000.jpg"}
    with pytest.raises(InputError, match=r"no split 'tset': choose one of test \(1 images\), train \(1 images\)"):
        read_references(path, split="tset")
    with pytest.raises(InputError, match="has no splits"):
        read_references(_write(tmp_path / "y", TOKEN), split="test")


@pytest.mark.parametrize("listed", ["2000.jpg\n", "2000\r\n\r\n2000\r\n", "\ufeff2000.png"])
def test_an_image_list_selects_with_or_without_endings(tmp_path: Path, listed: str) -> None:
    """Split lists name images with or without an ending, doubled or not."""
    images = _write(tmp_path / "list", listed)
    assert set(read_references(_write(tmp_path / "x", TOKEN), images=images).captions) == {"2000.jpg"}


def test_a_name_that_two_images_share_selects_neither(tmp_path: Path) -> None:
    """`a` means neither a.jpg nor a.png when both are there."""
    references = References(captions={"a.jpg": ("x",), "a.png": ("y",)})
    with pytest.raises(InputError, match=r"no captions for 1 of the images listed \(a\)"):
        references.select(["a"])
    with pytest.raises(InputError, match=r"for 4 of the images listed \(1, 2, 3, …\)"):
        read_references(_write(tmp_path / "x", TOKEN), images=_write(tmp_path / "y", "1\n2\n3\n4\n"))


def test_a_distribution_folder_joins_captions_and_splits(tmp_path: Path) -> None:
    """Token file, Karpathy's JSON and split lists in one folder are one set of references; other files are passed over."""
    _write(tmp_path / "results_20130124.token", TOKEN)
    _write(tmp_path / "readme.txt", "This is Flickr30k.\n")
    _write(tmp_path / "flickr30k_entities_test.txt", "2000\n")
    _write(tmp_path / "train.txt", "1000.jpg\n")
    assert read_references(tmp_path).captions == CAPTIONS
    assert set(read_references(tmp_path, split="test").captions) == {"2000.jpg"}
    _write(tmp_path / "dataset_flickr30k.json", KARPATHY)
    assert set(read_references(tmp_path, split="train").captions) == {"1000.jpg"}
    (tmp_path / "results_20130124.token").unlink()
    assert set(read_references(tmp_path, split="train").captions) == {"1000.jpg"}


def test_a_split_without_all_its_captions_is_refused(tmp_path: Path) -> None:
    """A split list may name images whose captions are elsewhere; choosing that split says so, the others still work."""
    _write(tmp_path / "captions.token", TOKEN)
    _write(tmp_path / "train.txt", "1000\n")
    _write(tmp_path / "test.txt", "2000\n3000\n")
    assert set(read_references(tmp_path, split="train").captions) == {"1000.jpg"}
    with pytest.raises(InputError, match="no captions for 1 of the 2 images of split 'test'"):
        read_references(tmp_path, split="test")


def test_a_folder_that_is_ambiguous_is_refused(tmp_path: Path) -> None:
    """Two files of captions, or two opinions on a split, are never chosen between in silence."""
    _write(tmp_path / "a.token", TOKEN)
    _write(tmp_path / "test.txt", "1000.jpg\n")
    _write(tmp_path / "dataset.json", KARPATHY)
    with pytest.raises(InputError, match=r"1000.jpg in split 'train' and, in test.txt, in 'test'"):
        read_references(tmp_path)
    _write(tmp_path / "b.csv", CSV)
    with pytest.raises(InputError, match=r"several files of captions \(a.token, b.csv\)"):
        read_references(tmp_path)
    with pytest.raises(InputError, match="no captions in a known format"):
        read_references(_folder(tmp_path / "empty"))


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TOKEN + "no number\tcaption\n", "line 5 is not of the form"),
        (TOKEN + "3000.jpg#0\t \n", "line 5 has an empty caption for 3000.jpg"),
        ("hello\nworld\n", "none of the formats known"),
        ("", "none of the formats known"),
        ("image,caption\na.jpg,one, two\n", "line 2 has 3 fields where the first line names 2"),
        ('image,caption\na.jpg,"one" two\n', "line 2 is broken"),
        ("image,caption\n,a dog\n", "line 2 names no image"),
        ("image,caption\n", "holds no captions"),
        ("image,caption,split\na,one,train\na,two,test\n", "line 3 puts a into split 'test', an earlier one into 'train'"),
        ('{"image": "a", "caption": "b"}\n{"image": "a"}\n', "line 2 has no image and caption"),
        ('{"image": "a", "caption": "b"}\n{"image":\n', "line 2 is not valid JSON"),
        ('{"image": "a",\n', "line 2 is not valid JSON"),
        ('[{"image": true, "caption": "b"}]', "entry 1 names no image"),
        ('[{"image": "a", "caption": [1]}]', "entry 1 has an empty caption"),
        ('{"images": [{"filename": "a"}]}', "image 1 lacks filename, split or sentences"),
        (json.dumps({"images": 2 * json.loads(KARPATHY)["images"]}), "image 3 names 1000.jpg a second time"),
        ('{"images": [{"id": 1}], "annotations": [{"image_id": 1}]}', "annotation without caption"),
    ],
)
def test_every_fault_is_one_sentence_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    """A fault in a file is an InputError that names the file and the line."""
    path = _write(tmp_path / "references", text)
    with pytest.raises(InputError, match=message) as caught:
        read_references(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_faults_of_files(tmp_path: Path) -> None:
    """Missing files, other encodings, and parquet without the columns or cut short are told apart."""
    with pytest.raises(InputError, match="does not exist"):
        read_references(tmp_path / "nothing")
    (tmp_path / "latin").write_bytes("a.jpg#0\tone\nb.jpg#0\tété\n".encode("latin-1"))
    with pytest.raises(InputError, match="line 2 is not UTF-8"):
        read_references(tmp_path / "latin")
    with pytest.raises(InputError, match=r"no column of captions \(it has image_id\)"):
        read_references(_write_parquet(tmp_path / "x", image_id=["a"]))
    with pytest.raises(InputError, match=r"no column of image names"):
        read_references(_write_parquet(tmp_path / "x", image=[b"a"], caption=["a"]))
    with pytest.raises(InputError, match="row 2 names a a second time"):
        read_references(_write_parquet(tmp_path / "x", key=["a", "a"], caption=[["one"], ["two"]]))
    (tmp_path / "cut").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(InputError, match="cannot be read as parquet"):
        read_references(tmp_path / "cut")


@pytest.mark.parametrize(("text", "message"), [("", "lists no images"), (TOKEN, "line 1 is not"), ("a\n[1]\n", "line 2 is not")])
def test_what_is_no_image_list_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """References given as a list, or an empty list, are recognised."""
    with pytest.raises(InputError, match=message):
        read_image_list(_write(tmp_path / "list", text))
    with pytest.raises(InputError, match="cannot be read"):
        read_image_list(tmp_path)


def test_the_fingerprint_depends_on_content_alone(tmp_path: Path) -> None:
    """Equal captions in another order or format have the same sha256; one changed word has another."""
    token = read_references(_write(tmp_path / "x", TOKEN))
    assert token.sha256 == read_references(_write(tmp_path / "x", KARPATHY)).sha256
    assert token.sha256 == token.select(reversed(list(token.captions))).sha256
    assert token.sha256 != read_references(_write(tmp_path / "x", TOKEN.replace("dog", "cat"))).sha256
    assert token.sha256 != token.select(["1000"]).sha256


def test_the_real_flickr30k_folder(data_dir: Path) -> None:
    """Flickr30k as distributed: 29,115 images of five captions, splits from the lists."""
    references = read_references(data_dir / "flickr30k")
    assert Counter(references.splits.values()) == {"train": 28129, "val": 986}
    assert {len(texts) for texts in references.captions.values()} == {5}
    listed = read_references(data_dir / "flickr30k" / "results_20130124.token", images=data_dir / "flickr30k" / "val.txt")
    assert listed.sha256 == references.subset("val").sha256


def test_the_real_flickr8k_parquet(data_dir: Path) -> None:
    """Flickr8k as parquet: the development split has 964 images of five captions."""
    references = read_references(data_dir / "flickr8k", split="dev")
    assert len(references.captions) == 964
    assert {len(texts) for texts in references.captions.values()} == {5}
