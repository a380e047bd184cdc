from tests.e2e.conftest import pictures as pictures
from tests.e2e.conftest import tiny_models as tiny_models
