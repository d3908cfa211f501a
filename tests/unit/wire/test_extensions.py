import pytest

from convergence.errors import LocalError, ParseError, Scope
from convergence.wire.extensions import MAX_CAPABILITIES, Capability, CircuitRequest, CircuitResponse

CONGESTION = CircuitRequest(congestion_control=True)
CGO = Capability(2, 6)
NOTHING = CircuitRequest()


@pytest.mark.parametrize(
    ("record", "data"),
    [
        (NOTHING, "00"),
        (CONGESTION, "01 01 00"),
        # Relay=6 is [02 06] (tor-spec, "Subprotocol request").
        (CircuitRequest(capabilities=frozenset([CGO])), "01 03 02 0206"),
        (CircuitRequest(True, frozenset([CGO, Capability(1, 9), Capability(2, 5)])), "02 01 00 03 06 0109 0205 0206"),
    ],
)
def test_requests(record, data):
    assert record.encode() == bytes.fromhex(data)
    assert CircuitRequest.parse(memoryview(bytes.fromhex(data))) == record


@pytest.mark.parametrize(("record", "data"), [(CircuitResponse(), "00"), (CircuitResponse(31), "01 02 01 1f")])
def test_responses(record, data):
    assert record.encode() == bytes.fromhex(data)
    assert CircuitResponse.parse(memoryview(bytes.fromhex(data)), CONGESTION) == record


@pytest.mark.parametrize("data", ["01 02 01 1f", "02 01 00 ff 03 aabbcc", "03 09 00 01 00 09 00"])
def test_a_relay_ignores_what_it_does_not_know(data):
    data = bytes.fromhex(data)
    assert CircuitRequest.parse(data) == (CONGESTION if b"\1\0" in data[1:] else NOTHING)


@pytest.mark.parametrize("data", ["02 02 01 1f 09 00", "03 01 00 02 01 1f 03 02 0206", "03 ff 00 ff 00 02 01 1f"])
def test_a_client_ignores_what_it_does_not_know(data):
    assert CircuitResponse.parse(bytes.fromhex(data), CONGESTION) == CircuitResponse(31)


def test_the_first_of_several_extensions_of_one_type_counts():
    assert CircuitRequest.parse(bytes.fromhex("02 01 00 01 01 00")) == CONGESTION
    assert CircuitRequest.parse(bytes.fromhex("02 03 02 0206 03 00")).capabilities == {CGO}
    assert CircuitResponse.parse(bytes.fromhex("02 02 01 1f 02 02 0000"), CONGESTION) == CircuitResponse(31)


def test_an_empty_list_of_capabilities_asks_for_nothing():
    assert CircuitRequest.parse(bytes.fromhex("01 03 00")) == NOTHING


@pytest.mark.parametrize(
    "data",
    [
        "",  # no count
        "01",  # no type
        "01 01",  # no length
        "01 09 02 00",  # half a body
        "02 01 00",  # one less than told
        "00 00",  # trailing bytes
        "01 01 00 00",
        "01 01 01 00",  # a body where there is none
        "01 03 03 020602",  # half a capability
        "01 03 04 0206 0206",  # one twice
        "01 03 04 0206 0205",  # out of order
        "01 03 04 0206 0109",
    ],
)
def test_malformed_requests(data):
    with pytest.raises(ParseError) as caught:
        CircuitRequest.parse(bytes.fromhex(data))
    assert caught.value.scope == Scope.CIRCUIT


@pytest.mark.parametrize(
    "data",
    [
        "",
        "01 02",
        "00 00",
        "01 02 01 1f 00",
        "01 02 00",
        "01 02 01 00",  # a SENDME after every zeroth cell
        "01 02 02 1f1f",
    ],
)
def test_malformed_responses(data):
    with pytest.raises(ParseError) as caught:
        CircuitResponse.parse(bytes.fromhex(data), CONGESTION)
    assert caught.value.scope == Scope.CIRCUIT


@pytest.mark.parametrize(
    ("request_", "data"),
    [
        (NOTHING, "01 02 01 1f"),
        (CircuitRequest(capabilities=frozenset([CGO])), "01 02 01 1f"),
        (NOTHING, "02 09 00 02 01 1f"),
    ],
)
def test_a_client_refuses_answers_to_what_it_did_not_ask(request_, data):
    with pytest.raises(ParseError):
        CircuitResponse.parse(bytes.fromhex(data), request_)


def test_what_does_not_fit_is_not_encoded():
    most = frozenset(Capability(0, number) for number in range(MAX_CAPABILITIES))
    assert CircuitRequest.parse(CircuitRequest(True, most).encode()).capabilities == most
    for capabilities in (most | {CGO}, {Capability(256, 1)}, {Capability(1, -1)}):
        with pytest.raises(LocalError):
            CircuitRequest(capabilities=frozenset(capabilities)).encode()
    for sendme_inc in (0, 256):
        with pytest.raises(LocalError):
            CircuitResponse(sendme_inc).encode()
