"""What it takes to import the other libraries: torchvision, which some of them import, may lack its operators."""

from tests.shims import make_torchvision_importable

make_torchvision_importable()
