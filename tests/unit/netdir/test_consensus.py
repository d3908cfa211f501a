"""Which consensus is believed. Authorities and documents: authorities.py, and those of tor in tests/vectors/tor."""

import random
from dataclasses import replace

import pytest

from convergence.errors import ClockError, CryptoError, LocalError, ParseError, RemoteError
from convergence.netdir.consensus import (
    MAX_CLOCK_SKEW,
    MAX_SIGNING_KEYS,
    TOLERANCE,
    ConsensusDirectory,
    check_certificate,
)
from convergence.wire.authority import KeyCertificate, parse_certificates
from convergence.wire.consensus import Consensus, Flavor
from tests.unit.netdir.authorities import (
    HOUR,
    NOW,
    Authority,
    consensus,
    consensus_body,
    relay,
    relays,
    rsa_secret,
    vector,
)
from tests.unit.wire.test_consensus_diff import diff

FIVE = [Authority(number) for number in range(5)]
WRITTEN = 1795984815  # while the consensus of tor was valid
CHUTNEY = 1495687600


def directory(authorities=FIVE, now=NOW):
    """A directory that knows the certificates of these authorities."""
    found = ConsensusDirectory(authority.identity for authority in authorities)
    certificates = b"".join(authority.certificate() for authority in authorities)
    assert found.add_certificates(certificates, [authority.name for authority in authorities], now) == []
    return found


def made(signers, **options):
    return Consensus.parse(consensus(signers, **options))


def signed_by(*signatures):
    return Consensus.parse(consensus_body() + b"".join(signatures))


def test_a_consensus_of_tor_is_believed_by_its_authorities_certificates():
    certificates = parse_certificates(vector("certificates"))
    found = ConsensusDirectory(cert.identity for cert in certificates)
    first = found.read(vector("consensus-microdesc"))
    asked = found.missing(first, WRITTEN)
    assert sorted(asked) == sorted((cert.identity, cert.signing_digest) for cert in certificates)
    with pytest.raises(CryptoError, match="0 of 3 authorities, 2 are needed; the keys of 3 more are not known"):
        found.update(first, WRITTEN)
    assert found.add_certificates(vector("certificates"), asked, WRITTEN) == []
    assert found.missing(first, WRITTEN) == []
    assert found.update(first, WRITTEN) and found.consensus is first
    second = found.read(vector("consensus-diff"))
    assert second.data == vector("consensus-microdesc-next")
    assert found.update(second, WRITTEN) and found.consensus is second


@pytest.mark.parametrize(("prefix", "now"), [("", WRITTEN), ("chutney-", CHUTNEY)])
def test_the_other_flavor_of_tor_is_believed_too(prefix, now):
    certificates = vector(f"{prefix}certificates")
    found = ConsensusDirectory((cert.identity for cert in parse_certificates(certificates)), Flavor.NS)
    read = found.read(vector(f"{prefix}consensus" if prefix else "consensus-ns"))
    assert found.add_certificates(certificates, found.missing(read, now), now) == []
    assert found.update(read, now)


@pytest.mark.parametrize("count", range(6))
def test_more_than_half_have_to_sign(count):
    found = directory()
    if count >= 3:
        assert found.update(made(FIVE[:count]), NOW)
    else:
        with pytest.raises(CryptoError, match=f"signed by {count} of 5 authorities, 3 are needed"):
            found.update(made(FIVE[:count]) if count else signed_by(Authority(9).signature(consensus_body())), NOW)
        assert found.consensus is None and not found.usable(NOW)


def test_half_of_an_even_number_is_not_enough():
    found = directory(FIVE[:4])
    with pytest.raises(CryptoError, match="2 of 4 authorities, 3 are needed"):
        found.update(made(FIVE[:2]), NOW)


def test_one_authority_counts_once_however_often_it_signs():
    body = consensus_body()
    again = [FIVE[0].signature(body), FIVE[0].signature(body), FIVE[1].signature(body), FIVE[1].signature(body)]
    with pytest.raises(CryptoError, match="2 of 5"):
        directory().update(signed_by(*again), NOW)
    found = directory()
    second = Authority(0, epoch=1)
    assert found.add_certificates(second.certificate(), [second.name], NOW) == []
    with pytest.raises(CryptoError, match="2 of 5"):
        found.update(signed_by(*again, second.signature(body)), NOW)


def test_a_signature_counts_for_its_own_authority_only():
    """One liar puts its signature under the names of all."""
    body = consensus_body()
    for names in ([other.name for other in FIVE], [(other.identity, FIVE[0].name[1]) for other in FIVE]):
        copies = [FIVE[0].signature(body, name=name) for name in names]
        with pytest.raises(CryptoError, match="1 of 5"):
            directory().update(signed_by(*copies), NOW)


def test_a_lying_minority_changes_nothing():
    found = directory()
    assert found.update(made(FIVE), NOW)
    lie = consensus(FIVE[:2], relays=[relay(bytes([1]) * 20)], valid_after=NOW + 60)
    with pytest.raises(CryptoError, match="2 of 5"):
        found.update(Consensus.parse(lie), NOW)
    truth = consensus_body(valid_after=NOW + 60)
    stolen = b"".join(authority.signature(truth) for authority in FIVE[2:])
    with pytest.raises(CryptoError, match="2 of 5"):
        found.update(Consensus.parse(lie + stolen), NOW)
    assert found.consensus is not None and found.consensus.valid_after == NOW


def test_strangers_do_not_count():
    strangers = [Authority(number) for number in range(10, 20)]
    found = directory()
    refused = found.add_certificates(strangers[0].certificate(), [strangers[0].name], NOW)
    assert refused == ["a key certificate that was not asked for"]
    assert found.missing(made(strangers), NOW) == []
    with pytest.raises(CryptoError, match="2 of 5"):
        found.update(made([*FIVE[:2], *strangers]), NOW)


def test_a_bad_signature_does_not_hide_a_good_one():
    body = consensus_body()
    bad = FIVE[0].signature(body, key=rsa_secret("bad"))
    good = [authority.signature(body) for authority in FIVE[:3]]
    assert directory().update(signed_by(bad, *good), NOW)


def test_sha1_does_not_count_for_microdescriptors():
    with pytest.raises(CryptoError, match="0 of 5"):
        directory().update(made(FIVE, algorithm="sha1"), NOW)


def test_the_certificate_has_to_be_the_one_that_was_asked_for():
    found = ConsensusDirectory(authority.identity for authority in FIVE)
    for asked in ([], [FIVE[1].name], [(FIVE[0].identity, FIVE[1].name[1])]):
        assert found.add_certificates(FIVE[0].certificate(), asked, NOW) == ["a key certificate that was not asked for"]
    assert len(found.missing(made(FIVE), NOW)) == 5


def test_a_forged_certificate_gives_no_signing_key():
    """A directory makes signing keys of its own and puts them under the names of authorities."""
    forger = rsa_secret("forger")
    for changes, why in (
        ({"signed_by": forger}, "did not sign"),
        ({"crosscert": forger}, "does not vouch"),
        ({"identity_key": forger, "fingerprint": FIVE[0].identity.hex()}, "another authority"),
    ):
        found = ConsensusDirectory([FIVE[0].identity])
        data = FIVE[0].certificate(**changes)
        if why == "another authority":
            with pytest.raises(ParseError, match=why):
                found.add_certificates(data, [FIVE[0].name], NOW)
        else:
            [refused] = found.add_certificates(data, [FIVE[0].name], NOW)
            assert why in refused
        assert found.missing(made(FIVE[:1]), NOW) == [FIVE[0].name]


def test_certificates_have_dates_of_their_own():
    cert = KeyCertificate.parse(FIVE[0].certificate(NOW, NOW + HOUR))
    check_certificate(cert, NOW - MAX_CLOCK_SKEW)
    check_certificate(cert, NOW + HOUR - 1)
    with pytest.raises(ClockError, match="future") as caught:
        check_certificate(cert, NOW - MAX_CLOCK_SKEW - 1)
    assert caught.value.ahead < 0
    with pytest.raises(ClockError, match="expired"):
        check_certificate(cert, NOW + HOUR)
    found = ConsensusDirectory([FIVE[0].identity])
    assert found.add_certificates(FIVE[0].certificate(NOW, NOW + HOUR), [FIVE[0].name], NOW) == []
    assert found.update(made(FIVE[:1]), NOW)
    assert found.missing(made(FIVE[:1]), NOW + HOUR) == [FIVE[0].name], "an expired one is asked for again"
    with pytest.raises(CryptoError, match="0 of 1"):
        found.update(made(FIVE[:1], valid_after=NOW + HOUR), NOW + HOUR)


def test_one_bad_certificate_does_not_make_the_rest_worthless():
    found = ConsensusDirectory(authority.identity for authority in FIVE[:2])
    data = FIVE[0].certificate(expires=NOW - 1) + FIVE[1].certificate()
    assert found.add_certificates(data, [authority.name for authority in FIVE[:2]], NOW) == [
        "a key certificate that has expired"
    ]
    assert found.missing(made(FIVE[:2]), NOW) == [FIVE[0].name]


def test_the_newest_signing_keys_are_kept():
    found = ConsensusDirectory([FIVE[0].identity])
    epochs = [Authority(0, epoch) for epoch in range(MAX_SIGNING_KEYS + 2)]
    for number, epoch in enumerate(epochs):
        assert found.add_certificates(epoch.certificate(NOW - HOUR + number), [epoch.name], NOW) == []
    gone = [epoch.name for epoch in epochs if found.missing(made([epoch]), NOW)]
    assert gone == [epoch.name for epoch in epochs[:2]]


def test_a_consensus_is_taken_a_day_before_and_after_its_time():
    one, end = made(FIVE), NOW + 3 * HOUR
    certificate = {"published": NOW - 100 * HOUR}
    for now, live in (
        (NOW - TOLERANCE, False),
        (NOW, True),
        (end - 1, True),
        (end, False),
        (end + TOLERANCE - 1, False),
    ):
        found = ConsensusDirectory(authority.identity for authority in FIVE)
        data = b"".join(authority.certificate(**certificate) for authority in FIVE)
        assert found.add_certificates(data, found.missing(one, now), now) == []
        assert found.update(one, now)
        assert found.usable(now) and found.live(now) == live
    assert not found.usable(end + TOLERANCE)
    with pytest.raises(ClockError, match="future") as early:
        directory().update(one, NOW - TOLERANCE - 1)
    with pytest.raises(ClockError, match="expired") as late:
        directory().update(one, end + TOLERANCE)
    assert early.value.ahead < 0 < late.value.ahead


def test_the_past_never_replaces_what_is_newer():
    found = directory()
    newest = made(FIVE, valid_after=NOW)
    assert found.update(newest, NOW)
    assert not found.update(Consensus.parse(newest.data), NOW), "the one in use is no news"
    for other in (made(FIVE, valid_after=NOW - HOUR), made(FIVE, relays=[relay(bytes([1]) * 20)])):
        with pytest.raises(RemoteError, match="not newer"):
            found.update(other, NOW)
    assert found.consensus is newest
    assert found.update(made(FIVE, valid_after=NOW + HOUR), NOW + HOUR)


def test_a_diff_is_believed_no_more_than_a_whole_one():
    found, base = directory(), made(FIVE)
    with pytest.raises(RemoteError, match="there is no consensus"):
        found.read(diff(b"", b"", base))
    assert found.update(base, NOW)
    lie = consensus(FIVE[:2], valid_after=NOW + HOUR)
    command = b"1,%dc\n%s.\n" % (base.data.count(b"\n"), lie)
    with pytest.raises(CryptoError, match="2 of 5"):
        found.update(found.read(diff(command, lie, base)), NOW)


def test_no_byte_that_is_signed_can_be_changed():
    rng, base = random.Random("changes"), consensus(FIVE, relays=relays(3))
    found = directory()
    size = Consensus.parse(base).signed_size
    for _ in range(300):
        changed = bytearray(base)
        changed[rng.randrange(size)] ^= 1 << rng.randrange(8)
        with pytest.raises(RemoteError):
            found.update(found.read(bytes(changed)), NOW)
    assert found.update(found.read(base), NOW)


def test_flavors_do_not_mix():
    with pytest.raises(RemoteError, match="flavor ns"):
        directory().update(replace(made(FIVE), flavor=Flavor.NS), NOW)


def test_authorities_are_named_once():
    for identities in ([], [bytes(20)] * 2):
        with pytest.raises(LocalError):
            ConsensusDirectory(identities)
