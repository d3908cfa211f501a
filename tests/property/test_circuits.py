"""Circuits over real links: whatever the cuts, the bytes are the same; whatever is changed, none are wrong."""

from hypothesis import given, settings
from hypothesis import strategies as st

from convergence.circuit.client import MAX_HOPS
from convergence.errors import EndReason
from convergence.wire.cells import CELL_LEN
from tests.unit.circuit.rig import Net, Recorder, SeededRng

sizes = st.one_of(st.integers(0, 2000), st.integers(0, 200_000))
cuts = st.lists(st.integers(1, 2 * CELL_LEN), min_size=1, max_size=8)


def cutter(pattern):
    """Cut what comes into pieces of these sizes, over and over."""
    position = 0

    def cut(data):
        nonlocal position
        pieces = []
        while data:
            size = pattern[position % len(pattern)]
            position += 1
            pieces.append(data[:size])
            data = data[size:]
        return pieces

    return cut


@settings(max_examples=25)
@given(st.integers(1, MAX_HOPS), st.lists(sizes, min_size=1, max_size=4), cuts)
def test_what_is_sent_arrives_over_any_path_cut_anywhere(hops, lengths, pattern):
    net = Net(cut=cutter(pattern) if min(pattern) > 50 or sum(lengths) < 5000 else None)
    circuit = net.build(net.add("client", relays=False), net.relays(hops))
    assert circuit.built
    opened = [net.open(circuit) for _ in lengths]
    ends = net.machines[-1].services.streams
    wanted = []
    for length, (stream, _), (end, _) in zip(lengths, opened, ends, strict=True):
        up, down = SeededRng(f"up{length}").random(length), SeededRng(f"down{length}").random(length)
        wanted.append((up, down))
        stream.write(up, net.now)
        end.write(down, net.now)
    net.pump()
    for (up, down), (_, handler), (end, far) in zip(wanted, opened, ends, strict=True):
        assert far.received == up and handler.received == down
        end.end(net.now)
    net.pump()
    assert all(handler.reason == EndReason.DONE for _, handler in opened)
    assert circuit.built


@settings(max_examples=60)
@given(
    st.integers(1, 4),
    st.integers(0, 9),
    st.integers(0, 400),
    st.integers(0, CELL_LEN - 1),
    st.integers(1, 255),
    st.booleans(),
)
def test_no_changed_byte_is_ever_handed_over(hops, which, skip, at, change, outward):
    """Any relay (or the wire) changes one byte of one cell: what arrives is a prefix of what was sent."""
    net = Net()
    client = net.add("client", relays=False)
    path = net.relays(hops)
    circuit = net.build(client, path)
    stream, handler = net.open(circuit)
    end, far = path[-1].services.streams[0]
    nodes = [client, *path]
    near, next_one = nodes[which % hops], nodes[which % hops + 1]
    direction = (near, next_one) if outward else (next_one, near)
    passed = 0

    def tap(sender, receiver, data):
        nonlocal passed
        if (sender, receiver) != direction or len(data) % CELL_LEN:
            return data
        before, passed = passed, passed + len(data)
        target = skip * CELL_LEN + at
        if before <= target < passed:
            changed = bytearray(data)
            changed[target - before] ^= change
            return bytes(changed)
        return data

    net.tap = tap
    up, down = SeededRng("up").random(150_000), SeededRng("down").random(150_000)
    stream.write(up, net.now)
    end.write(down, net.now)
    net.pump()
    assert up.startswith(far.received) and down.startswith(handler.received)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from(["send", "answer", "end", "end far", "hold", "go on", "open"]), sizes)))
def test_streams_stay_whole_under_any_schedule(steps):
    """Several streams of one circuit, opened, held, ended in any order: each gets its own bytes, in order."""
    net = Net()
    circuit = net.build(net.add("client", relays=False), net.relays(2))
    services = net.machines[-1].services
    opened = []
    held = {}  # far ends that consume nothing, and how many bytes each had got by then

    def open_one():
        stream, handler = net.open(circuit)
        end, far = services.streams[-1]
        opened.append((stream, handler, end, far, bytearray(), bytearray()))

    def go_on(end, far):
        """A far end that was held consumes what it got meanwhile."""
        if far in held:
            far.pipe = end
            end.consumed(len(far.received) - held.pop(far), net.now)

    open_one()
    for number, (step, size) in enumerate(steps):
        stream, _, end, far, up, down = opened[size % len(opened)]
        data = bytes([number % 256]) * size
        if step == "open":
            open_one()
        elif step == "send":
            up += data
            stream.write(data, net.now)
        elif step == "answer":
            down += data
            end.write(data, net.now)
        elif step == "hold":
            held.setdefault(far, len(far.received))
            far.pipe = None
        elif step == "go on":
            go_on(end, far)
        else:
            leaving = stream if step == "end" else end
            leaving.end(net.now) if size % 2 else leaving.abort(EndReason.DONE, net.now)
        if size % 3:
            net.pump()
        assert circuit.built
    for _, _, end, far, *_ in opened:
        go_on(end, far)
    net.pump()
    assert circuit.built
    for _, handler, _, far, up, down in opened:
        assert up.startswith(far.received) and down.startswith(handler.received)
        assert isinstance(handler, Recorder)
