"""All cases together leave nothing either: what bears no container's name, such as sockets, is counted here."""

from harness.answers import fail


def test_nothing_is_left_of_all_cases(collected):
    if collected.left:
        fail("left behind by the cases of this session:\n" + "\n".join(collected.left))
