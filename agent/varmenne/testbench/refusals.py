"""The one table of the bench's error codes and messages.

The real service answers with ``PKI`` and three digits (observed); its full list is not public. These codes and texts
are therefore the bench's own. What a client may rely on is the form: ``Result`` with ``Status`` ``FAIL`` and one
``ErrorInfo``, signed like every other answer. Nothing is spent, burnt or changed by a request that is refused, and in
particular a wrong password does not burn an order; wrong passwords are only counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NoReturn, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result")


class Language(StrEnum):
    """The languages of the messages."""

    FINNISH = "fi"
    SWEDISH = "sv"
    ENGLISH = "en"


@dataclass(frozen=True, slots=True)
class Refusal:
    """One line of the table: a code and its message in three languages, each at most 255 characters."""

    code: str
    fi: str
    sv: str
    en: str

    def message(self, language: Language) -> str:
        """Return the message in a language."""
        texts = {Language.FINNISH: self.fi, Language.SWEDISH: self.sv, Language.ENGLISH: self.en}
        return texts[language]


class _Refused(Exception):
    """Carries a refusal from :func:`refuse` to :func:`outcome`. Never leaves this module otherwise."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.code)
        self.refusal = refusal


def refuse(refusal: Refusal) -> NoReturn:
    """Leave an operation, however deep in it, with a refusal."""
    raise _Refused(refusal)


def outcome(operation: Callable[[], Result]) -> Result | Refusal:
    """Call an operation and return its result, or the refusal that it left with."""
    try:
        return operation()
    except _Refused as exc:
        return exc.refusal


TEMPORARY = Refusal(
    "PKI001",
    "Tilapäinen häiriö. Yritä myöhemmin uudelleen.",
    "Tillfälligt fel. Försök igen senare.",
    "Temporary error. Try again later.",
)
WRONG_ENVIRONMENT = Refusal(
    "PKI101",
    "Pyynnön ympäristö ei ole tämän palvelun ympäristö.",
    "Begärans miljö är inte denna tjänsts miljö.",
    "The environment of the request is not the environment of this service.",
)
UNKNOWN_TRANSFER_ID = Refusal(
    "PKI110",
    "Siirtotunnusta ei löydy.",
    "Överförings-ID:t finns inte.",
    "The transfer ID is not known.",
)
TRANSFER_ID_OF_ANOTHER = Refusal(
    "PKI111",
    "Siirtotunnus kuuluu toiselle asiakkaalle.",
    "Överförings-ID:t hör till en annan kund.",
    "The transfer ID belongs to another customer.",
)
WRONG_PASSWORD = Refusal(
    "PKI112",
    "Kertakäyttöinen salasana on väärä.",
    "Engångslösenordet är fel.",
    "The one-time password is wrong.",
)
TRANSFER_ID_USED = Refusal(
    "PKI113",
    "Siirtotunnus on jo käytetty. Tilaa uusi varmenne.",
    "Överförings-ID:t har redan använts. Beställ ett nytt certifikat.",
    "The transfer ID has been used already. Order a new certificate.",
)
TRANSFER_ID_EXPIRED = Refusal(
    "PKI114",
    "Siirtotunnus on vanhentunut. Tilaa uusi varmenne.",
    "Överförings-ID:t har gått ut. Beställ ett nytt certifikat.",
    "The transfer ID has expired. Order a new certificate.",
)
CSR_UNREADABLE = Refusal(
    "PKI120",
    "Varmennepyyntö ei ole PKCS#10-pyyntö DER-muodossa.",
    "Certifikatbegäran är inte en PKCS#10-begäran i DER-form.",
    "The certificate request is not a PKCS#10 request in DER.",
)
CSR_ALGORITHM = Refusal(
    "PKI121",
    "Varmennepyynnön allekirjoituksen on oltava SHA-256 ja RSA.",
    "Certifikatbegärans underskrift ska vara SHA-256 med RSA.",
    "The certificate request must be signed with SHA-256 and RSA.",
)
CSR_KEY = Refusal(
    "PKI122",
    "Avaimen on oltava 2048-bittinen RSA-avain.",
    "Nyckeln ska vara en RSA-nyckel på 2048 bitar.",
    "The key must be an RSA key of 2048 bits.",
)
CSR_SIGNATURE = Refusal(
    "PKI123",
    "Varmennepyynnön allekirjoitus ei täsmää sen julkiseen avaimeen.",
    "Certifikatbegärans underskrift stämmer inte med dess öppna nyckel.",
    "The signature of the certificate request does not verify with its public key.",
)
KEY_KNOWN = Refusal(
    "PKI124",
    "Tällä avaimella on jo varmenne. Luo uusi avainpari.",
    "Nyckeln har redan ett certifikat. Skapa ett nytt nyckelpar.",
    "This key has a certificate already. Make a new key pair.",
)
UNKNOWN_RETRIEVAL_ID = Refusal(
    "PKI130",
    "Noutotunnusta ei löydy.",
    "Hämtnings-ID:t finns inte.",
    "The retrieval ID is not known.",
)
RETRIEVAL_ID_OF_ANOTHER = Refusal(
    "PKI131",
    "Noutotunnus kuuluu toiselle asiakkaalle.",
    "Hämtnings-ID:t hör till en annan kund.",
    "The retrieval ID belongs to another customer.",
)
NOT_READY = Refusal(
    "PKI132",
    "Varmenne ei ole vielä valmis. Yritä hetken kuluttua uudelleen.",
    "Certifikatet är inte färdigt ännu. Försök igen om en stund.",
    "The certificate is not ready yet. Try again in a moment.",
)
SIGNATURE_SHAPE = Refusal(
    "PKI140",
    "Pyynnön XML-allekirjoitus ei ole vaaditussa muodossa.",
    "Begärans XML-underskrift har inte den form som krävs.",
    "The XML signature of the request does not have the required form.",
)
SIGNATURE_WRONG = Refusal(
    "PKI141",
    "Pyynnön XML-allekirjoitus ei täsmää.",
    "Begärans XML-underskrift stämmer inte.",
    "The XML signature of the request does not verify.",
)
SIGNER_UNKNOWN = Refusal(
    "PKI142",
    "Allekirjoittajan varmenne ei ole tämän palvelun myöntämä.",
    "Undertecknarens certifikat har inte utfärdats av denna tjänst.",
    "The signer's certificate was not issued by this service.",
)
SIGNER_NOT_VALID = Refusal(
    "PKI143",
    "Allekirjoittajan varmenne ei ole voimassa. Tilaa uusi varmenne.",
    "Undertecknarens certifikat är inte giltigt. Beställ ett nytt certifikat.",
    "The signer's certificate is not valid at present. Order a new certificate.",
)
SIGNER_OF_ANOTHER = Refusal(
    "PKI144",
    "Allekirjoittajan varmenne kuuluu toiselle asiakkaalle.",
    "Undertecknarens certifikat hör till en annan kund.",
    "The signer's certificate belongs to another customer.",
)
TOO_EARLY = Refusal(
    "PKI145",
    "Varmenteen voi uusia aikaisintaan 60 päivää ennen sen päättymistä.",
    "Certifikatet kan förnyas tidigast 60 dagar innan det går ut.",
    "A certificate can be renewed at the earliest 60 days before it expires.",
)
SIGNER_REVOKED = Refusal(
    "PKI146",
    "Allekirjoittajan varmenne on suljettu. Tilaa uusi varmenne.",
    "Undertecknarens certifikat har återkallats. Beställ ett nytt certifikat.",
    "The signer's certificate has been revoked. Order a new certificate.",
)

REFUSALS: dict[str, Refusal] = {
    refusal.code: refusal
    for refusal in (
        TEMPORARY,
        WRONG_ENVIRONMENT,
        UNKNOWN_TRANSFER_ID,
        TRANSFER_ID_OF_ANOTHER,
        WRONG_PASSWORD,
        TRANSFER_ID_USED,
        TRANSFER_ID_EXPIRED,
        CSR_UNREADABLE,
        CSR_ALGORITHM,
        CSR_KEY,
        CSR_SIGNATURE,
        KEY_KNOWN,
        UNKNOWN_RETRIEVAL_ID,
        RETRIEVAL_ID_OF_ANOTHER,
        NOT_READY,
        SIGNATURE_SHAPE,
        SIGNATURE_WRONG,
        SIGNER_UNKNOWN,
        SIGNER_NOT_VALID,
        SIGNER_OF_ANOTHER,
        TOO_EARLY,
        SIGNER_REVOKED,
    )
}
"""Code → refusal, in the order of the documentation."""
