"""A process alone among its peers; several are in the tests of commands."""

from rtdlm.parallel import Peers


def test_alone_it_hears_itself_and_nothing_else() -> None:
    peers = Peers()
    assert (peers.process, peers.count, peers.leads) == (0, 1, True)
    assert peers.follow("a", (1, None)) == (1, None)
    assert peers.gather("b", "mine") == ["mine"]
    peers.say("stop/0", "SIGTERM")
    assert peers.said("stop") == {}
    peers.forget("a")
