"""Agreement of two answers of which neither is a reference: a ceiling of what scores can say.

Maps against maps, labels against labels over the same ground, and maps against labels. An agreement
is no score: it has no split and no leak to report, but it names what its two sides share.
"""

from lczcube.agreement.files import Reading, file_agreement
from lczcube.agreement.labels import label_agreement, map_label_agreement
from lczcube.agreement.maps import city_agreements, map_agreement
from lczcube.agreement.table import agreement_table
from lczcube.agreement.value import Agreement, CityAgreements, Pair

__all__ = [
    "Agreement",
    "CityAgreements",
    "Pair",
    "Reading",
    "agreement_table",
    "city_agreements",
    "file_agreement",
    "label_agreement",
    "map_agreement",
    "map_label_agreement",
]
