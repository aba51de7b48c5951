"""Features of Inception for the Frechet distance of Fig. 5f, which notebook 11 computes by torchmetrics."""

from pathlib import Path

from torch import Tensor, nn

from mudiff import storage
from mudiff.errors import MudiffError


class Inception(nn.Module):
    """Inception-v3 features of one contrast, from the file of torch-fidelity's weights that the user fetched."""

    num_features = 2048
    label = "Inception-v3 (2048 features)"

    def __init__(self, weights: Path | str) -> None:
        super().__init__()
        file = "weights-inception-2015-12-05-6cffb8f4.pth"
        advice = f"fetch {file} from the releases of github.com/toshas/torch-fidelity"
        # torch-fidelity unpickles whatever it is given: let through only what holds tensors alone.
        storage.read_weights(weights, "Inception weights", advice)
        with storage.reading(weights, "Inception weights", advice):
            try:
                from torchmetrics.image.fid import NoTrainInceptionV3

                self.network = NoTrainInceptionV3("inception-v3-compat", [str(self.num_features)], str(weights))
            except ImportError:
                raise MudiffError("Inception features need `pip install torch-fidelity`.") from None

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, 2048) of images (B, 1, S, S) in [0, 1]."""
        grey = (images.clamp(0, 1) * 255).round().byte()
        return self.network(grey.expand(-1, 3, -1, -1))
