from afd_tf.data.names import comparable, some


def test_names_that_differ_in_their_normal_form():
    assert comparable("cafe\u0301") == comparable("caf\u00e9") == "caf\u00e9"
    assert comparable("\udce9") == r"\udce9"
    assert comparable("a") != comparable("A")


def test_some_names():
    assert some(["a\n", "b"]) == r"a\n, b"
    assert some(["a", "b", "c", "d"]) == "a, b, c, ..."
