"""The control endpoint's certificate over the years: what is renewed when, and that replicas trust it all the time."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from windlass_operator.kubernetes_driver.authority import load_chain
from windlass_operator.kubernetes_driver.certificate import CA_RENEWED, RENEWED, SETTLES, Material, renewed

NOW = datetime(2030, 1, 1, tzinfo=UTC)
NAMES = ("windlass-operator.windlass.svc", "127.0.0.1")


def trusts(ca: bytes, material: Material) -> bool:
    """Whether who trusts `ca` takes the certificate."""
    certificate = x509.load_pem_x509_certificate(material.certificate)
    for authority in x509.load_pem_x509_certificates(ca):
        try:
            certificate.verify_directly_issued_by(authority)
        except (ValueError, TypeError, Exception):  # noqa: BLE001 - whatever is wrong, it isn't
            continue
        return True
    return False


def test_the_first_is_for_all_names_and_can_be_used() -> None:
    material = renewed(None, NAMES, NOW)
    certificate = x509.load_pem_x509_certificate(material.certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {str(each.value) for each in names} == set(NAMES)
    assert trusts(material.ca, material)
    load_chain(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), material)


def test_nothing_changes_while_nothing_is_due() -> None:
    material = renewed(None, NAMES, NOW)
    assert renewed(material, NAMES, NOW + timedelta(days=10)) is material
    assert renewed(material, tuple(reversed(NAMES)), NOW) is material


def test_a_certificate_is_renewed_well_before_its_end_by_the_same_ca() -> None:
    material = renewed(None, NAMES, NOW)
    later = renewed(material, NAMES, NOW + timedelta(days=90) - RENEWED + timedelta(hours=1))
    assert later.ca == material.ca
    assert later.certificate != material.certificate
    assert trusts(material.ca, later)


def test_another_name_makes_another_certificate() -> None:
    material = renewed(None, NAMES, NOW)
    assert trusts(material.ca, renewed(material, (*NAMES, "operator.example"), NOW))


@pytest.mark.parametrize("name", ["ca", "ca_key", "certificate", "key"])
def test_what_cannot_be_read_is_made_anew(name: str) -> None:
    material = renewed(None, NAMES, NOW)
    broken = Material(**{**material.__dict__, name: b"nonsense"})
    mended = renewed(broken, NAMES, NOW)
    assert trusts(mended.ca, mended)


def test_who_follows_the_ca_trusts_each_certificate_for_a_dozen_years() -> None:
    """Also who read the CA days ago: a new CA is known before it signs."""
    material = renewed(None, NAMES, NOW)
    authorities, yesterday = {material.ca}, material.ca
    for day in range(3, 12 * 365, 3):
        material = renewed(material, NAMES, NOW + timedelta(days=day))
        authorities.add(material.ca)
        assert trusts(yesterday, material), day
        assert x509.load_pem_x509_certificate(material.certificate).not_valid_after_utc > NOW + timedelta(days=day)
        yesterday = material.ca
    assert len(x509.load_pem_x509_certificates(material.ca)) <= 2
    assert len(authorities) >= 3
    assert timedelta(days=90) > RENEWED > SETTLES
    assert timedelta(days=90) < CA_RENEWED
