import pytest

from afd_tf import data
from afd_tf.base.errors import UserError
from afd_tf.data.csv_table import list_csv


def listing(tmp_path, text):
    path = tmp_path / "table.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list_csv(str(path))


def test_rows_become_files(tmp_path):
    found = listing(
        tmp_path, "image,label\nx/2.png,dog\nx/1.png,cat\n\n./x/3.png,cat\n"
    )
    assert found.name == f"csv:{tmp_path}/table.csv"
    assert found.root == str(tmp_path)
    assert found.class_names == ("cat", "dog")
    assert [tuple(file) for file in found.files] == [
        ("x/1.png", 0, None),
        ("x/3.png", 0, None),
        ("x/2.png", 1, None),
    ]
    assert found.problems == []


def test_numbers_are_ordered_by_value(tmp_path):
    found = listing(tmp_path, "label,image\n10,a\n9,b\n-1,c\n")
    assert found.class_names == ("-1", "9", "10")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_other_columns_orders_cases_and_separators(tmp_path, delimiter):
    rows = ["id,Split,LABEL,Image", '1,Training,"a",p1', "2,TEST,b,p2", "3,Valid,a,p3"]
    rows += ["4,train,b,p4"]
    text = "\r\n".join(row.replace(",", delimiter) for row in rows)
    found = listing(tmp_path, b"\xef\xbb\xbf" + text.encode())
    assert {file.path: file.split for file in found.files} == {
        "p1": "train",
        "p2": "test",
        "p3": "validation",
        "p4": "train",
    }


def test_validation_is_the_test_split_where_there_is_no_other(tmp_path):
    found = listing(tmp_path, "image,label,split\n1,a,train\n2,b,train\n3,a,val\n")
    assert [file.split for file in found.files] == ["train", "test", "train"]


def test_names_of_any_bytes(tmp_path):
    found = listing(tmp_path, b'image,label\n"a\nb.png",x\n\xe9.png,\xff\n')
    assert {file.path for file in found.files} == {"a\nb.png", "\udce9.png"}
    assert found.class_names == ("x", "\\udcff")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column 'image'; it has nothing"),
        ("file,label\n", "no column 'image'; it has file, label"),
        ("image,label\n", "no line below its first"),
        ("image,label\na,\n", "line 2: the column 'label' is empty"),
        ("image,label\na\n", "line 2: the column 'label' is empty"),
        ("image,label\na,x\nb,x\n", "at least two labels; it has 1"),
        ("image,label,split\na,x,trian\n", "unknown split 'trian'. Did you mean 'tra"),
        ("image,label,split\na,x,train\nb,y,\n", "b has no split"),
        ("image,label,split\na,x,test\nb,y,test\n", "no image of the split 'train'"),
        ("image,label,split\na,x,train\nb,z,train\nc,y,test\n", "the label 'y', which"),
        ("image,label\na,x\n./a,y\n", "line 3: ./a is there a second time"),
    ],
)
def test_mistakes(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as error:
        listing(tmp_path, text)
    assert "\n" not in str(error.value)


def test_a_missing_table(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.csv does not exist"):
        list_csv(str(tmp_path / "nothing.csv"))


def test_a_table_is_a_data_set(make_folder, capsys):
    root = make_folder({"all": 9})
    rows = [
        f"all/{n:03}.png,{'ab'[n % 2]},{'test' if n > 6 else 'train'}" for n in range(9)
    ]
    (root / "t.csv").write_text("\n".join(["image,label,split", *rows]))
    dataset = data.load(f"csv:{root}/t.csv")
    assert dataset.info.examples == {"train": 7, "validation": 0, "test": 2}
    assert dataset.info.class_names == ("a", "b")
    (root / "t.csv").write_text("\n".join(["image,label", *(r[:13] for r in rows)]))
    assert sum(data.load(f"csv:{root}/t.csv").info.examples.values()) == 9
    (root / "t.csv").write_text("image,label\nall/000.png,a\nlost.png,b\n")
    with pytest.raises(UserError, match=r"lost\.png does not exist"):
        data.load(f"csv:{root}/t.csv")
