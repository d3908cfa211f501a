"""Which Tor network a file names."""

import pytest

from pynode.tornetwork import PUBLIC, TorNetworkError, read_network

MORIA = "128.31.0.39:9231 1A25C6358DB91342AA51720A5038B72742732498"
AUTHORITY = f"DirAuthority moria1 orport=9201 v3ident=F533C81CEF0BC0267857C99B2F471ADF249FA232 {MORIA}"
FALLBACK = "FallbackDir 64.65.62.122 orport=443 id=4F067C5C488173987B568CD7245F1CA71DEE996B"


def read(tmp_path, *lines):
    file = tmp_path / "network"
    file.write_text("\n".join(lines))
    return read_network(file)


def test_the_public_network_has_nine_authorities():
    config = read_network(PUBLIC)
    assert len(config.authorities) == len(set(config.authorities)) == 9
    assert len(config.directories) > 150 and config.distinct_subnets
    assert len({directory.fingerprint for directory in config.directories}) == len(config.directories)


def test_lines_of_a_torrc_are_read(tmp_path):
    config = read(tmp_path, "# mine", "", AUTHORITY, FALLBACK + "  # near", "EnforceDistinctSubnets 0")
    assert config.authorities == (bytes.fromhex("F533C81CEF0BC0267857C99B2F471ADF249FA232"),)
    assert [(item.address, item.fingerprint.hex()[:4]) for item in config.directories] == [
        ("128.31.0.39:9201", "1a25"),
        ("64.65.62.122:443", "4f06"),
    ]
    assert [item.dir_address for item in config.directories] == ["128.31.0.39:9231", ""]
    assert not config.distinct_subnets


def test_an_authority_may_have_no_directory_port(tmp_path):
    [directory] = read(tmp_path, AUTHORITY.replace(":9231", ":0")).directories
    assert directory.dir_address == ""


def test_a_fingerprint_may_come_in_groups(tmp_path):
    groups = AUTHORITY.replace(MORIA.split()[1], "1A25 C635 8DB9 1342 AA51 720A 5038 B727 4273 2498")
    assert read(tmp_path, groups) == read(tmp_path, AUTHORITY)


def test_two_networks_have_two_names(tmp_path):
    other = AUTHORITY.replace("F533", "0000")
    assert read(tmp_path, AUTHORITY).name != read(tmp_path, other).name
    assert read(tmp_path, AUTHORITY, other).name == read(tmp_path, other, AUTHORITY).name


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("SocksPort 9050", "none of DirAuthority"),
        ("DirAuthority", "v3ident"),
        (AUTHORITY.replace("v3ident", "ident"), "v3ident"),
        (AUTHORITY.replace("orport=9201", "orport=0"), "orport"),
        (AUTHORITY.replace("orport=9201 ", ""), "orport"),
        (AUTHORITY[:-1], "40 hexadecimal digits"),
        (AUTHORITY.replace("128.31.0.39", "moria.example"), "moria.example"),
        ("FallbackDir", "address"),
        (FALLBACK.replace("id=4F", "id=XX"), "40 hexadecimal digits"),
        (FALLBACK.replace("443", "99999"), "orport"),
    ],
)
def test_a_line_that_is_wrong_is_named(tmp_path, line, reason):
    with pytest.raises(TorNetworkError, match=reason) as error:
        read(tmp_path, AUTHORITY, line)
    assert "line 2" in str(error.value)


def test_a_network_needs_an_authority(tmp_path):
    with pytest.raises(TorNetworkError, match="no DirAuthority"):
        read(tmp_path, FALLBACK)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(TorNetworkError, match="cannot be read"):
        read_network(tmp_path / "nowhere")
