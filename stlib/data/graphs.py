"""Graphs: who is a neighbour of whom, as a matrix ``A`` whose entry ``[i, j]`` is what place i takes from place j."""

import numpy as np
import pandas as pd
import torch
from scipy.sparse import coo_array, csgraph
from scipy.sparse.linalg import eigsh
from torch import Tensor

from stlib.data.windows import Windows

EARTH_RADIUS = 6371.0088  # km, the mean radius of the Earth


def great_circle(lat, lon) -> Tensor:
    r"""The distance along the sphere between every two places, in km, by the haversine formula.

    .. math:: d_{ij} = 2 R \arcsin \sqrt{\sin^2\frac{\varphi_i - \varphi_j}{2}
       + \cos\varphi_i \cos\varphi_j \sin^2\frac{\lambda_i - \lambda_j}{2}}, \qquad R = 6371.0088 \text{ km}

    The Earth is flattened a little, so distances are wrong by up to 0.6 %.

    Shapes: ``lat`` and ``lon`` (N,), degrees north and east, tensors or anything numpy takes; longitudes from -180 to
    180 or from 0 to 360. Gives (N, N), symmetric, in km.
    Raises ValueError for other shapes, a missing coordinate, or one outside these ranges.

    >>> round(great_circle([0.0, 0.0], [0.0, 90.0])[0, 1].item(), 1)  # a quarter of the equator
    10007.6
    """
    lat, lon = _floating(lat), _floating(lon)
    if lat.ndim != 1 or lat.shape != lon.shape:
        raise ValueError(
            f"lat and lon must be (N,) and equally long, got shapes {tuple(lat.shape)} and {tuple(lon.shape)}"
        )
    for name, degrees, low, high in (("lat", lat, -90, 90), ("lon", lon, -180, 360)):
        outside = ~((degrees >= low) & (degrees <= high))  # NaN is outside too
        if outside.any():
            raise ValueError(f"{name} must be degrees from {low} to {high}, got {degrees[outside][0].item()}")
    phi, lam = lat.double().deg2rad(), lon.double().deg2rad()
    square = ((phi[:, None] - phi) / 2).sin().square()
    square += phi.cos()[:, None] * phi.cos() * ((lam[:, None] - lam) / 2).sin().square()
    return (2 * EARTH_RADIUS * square.clamp_max(1).sqrt().asin()).to(lat.dtype)


def gaussian(distance: Tensor, *, scale: float | None = None, threshold: float = 0.1) -> Tensor:
    r"""Weights that fall with the distance: :math:`A_{ij} = e^{-(d_{ij}/s)^2}`, and 0 where that is below a threshold.

    ``scale`` :math:`s`, in the unit of the distances, is by default their standard deviation: of all finite entries of
    the matrix, the zeros of the diagonal among them, with the squares divided by their number, not by one less.

    Shapes: ``distance`` (N, N) to (N, N); ``[i, j]`` is the distance from j to i, infinite where there is no way.
    Raises ValueError for distances that are missing or negative, a scale that is not positive (the default is 0 where
    all places coincide) or a threshold outside [0, 1).
    Source: Li et al. (2018), doi:10.48550/arXiv.1707.01926, and for the default scale the code of its authors.
    Deviation: the diagonal is 0, theirs is 1; `normalise` adds it back.

    >>> gaussian(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), scale=1)
    tensor([[0.0000, 0.3679],
            [0.3679, 0.0000]])
    """
    distance = _distances(distance)
    if scale is None:
        scale = distance[distance.isfinite()].double().std(correction=0).item()
    if not scale > 0 or not 0 <= threshold < 1:
        raise ValueError(f"needs scale > 0 and 0 <= threshold < 1, got scale={scale} and threshold={threshold}")
    weight = (distance.double() / scale).square_().neg_().exp_()
    return weight.masked_fill_(weight < threshold, 0).fill_diagonal_(0).to(distance.dtype)


def nearest(distance: Tensor, *, k: int) -> Tensor:
    """An edge into each place from each of the ``k`` places nearest to it, of weight 1.

    Of places equally far the one with the smaller number comes first. A place at an infinite distance is no neighbour,
    so that fewer than ``k`` are possible. The result is directed: the nearest of i may have k nearer than i, which
    `symmetrise` mends. ``nearest(d, k=4) * gaussian(d)`` gives the edges weights.

    Shapes: ``distance`` (N, N) to (N, N); ``[i, j]`` is the distance from j to i. The diagonal is not looked at.
    Raises ValueError for distances that are missing or negative, or ``k`` outside 1 to N - 1.

    >>> x = torch.tensor([0.0, 1.0, 3.0])
    >>> nearest((x[:, None] - x).abs(), k=1)
    tensor([[0., 1., 0.],
            [1., 0., 0.],
            [0., 1., 0.]])
    """
    distance = _distances(distance)
    _check_k(k, len(distance))
    distance = distance.clone().fill_diagonal_(torch.inf)
    return (_smallest(distance, k) & distance.isfinite()).to(distance.dtype)


def contiguity(labels: Tensor, *, corners: bool = False, wrap: bool = False, sparse: bool = False) -> Tensor:
    """An edge of weight 1 between every two regions that share a border, in a map that says whose each cell is.

    Regions are numbered in increasing order of label: place n is ``labels[labels >= 0].unique()[n]``. A lattice is the
    map in which each cell is a region of its own: ``torch.arange(H * W).reshape(H, W)``, with -1 in the cells to leave
    out. Two cells share a border where they have a side in common (rook), or, with ``corners``, a side or a corner
    (queen). ``wrap`` makes the last column touch the first, as longitudes do.

    Shapes: ``labels`` (H, W), whole numbers, negative for a cell that is nobody's. Gives (N, N), float32, symmetric;
    with ``sparse`` a sparse COO tensor, which a lattice of more than some thousand cells needs.
    Raises ValueError for another shape, labels that are not whole numbers, or no region at all.

    >>> contiguity(torch.tensor([[4, 4, 7], [9, -1, 7]]))  # 4 touches 7 and 9
    tensor([[0., 1., 1.],
            [1., 0., 0.],
            [1., 0., 0.]])
    """
    labels = labels if isinstance(labels, Tensor) else torch.from_numpy(np.array(labels))
    if labels.ndim != 2 or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(
            f"labels must be (H, W) whole numbers, negative outside, got {labels.dtype} {tuple(labels.shape)}"
        )
    names, region = labels.unique(return_inverse=True)
    nodes = int((names >= 0).sum())
    if nodes == 0:
        raise ValueError(f"labels of shape {tuple(labels.shape)} has no region: no label is 0 or more")
    region = region - (len(names) - nodes)  # below 0 outside
    if wrap:
        region = torch.cat([region, region[:, :1]], 1)
    neighbours = [(region[:, :-1], region[:, 1:]), (region[:-1], region[1:])]
    if corners:
        neighbours += [(region[:-1, :-1], region[1:, 1:]), (region[:-1, 1:], region[1:, :-1])]
    edges = []
    for one, other in neighbours:
        border = (one != other) & (one >= 0) & (other >= 0)
        one, other = one[border], other[border]
        edges += [one * nodes + other, other * nodes + one]
    edge = torch.cat(edges).unique()  # in the order of rows, as a coalesced tensor has them
    index = torch.stack([edge // nodes, edge % nodes])
    adjacency = torch.sparse_coo_tensor(
        index, torch.ones_like(edge, dtype=torch.float32), (nodes, nodes), check_invariants=True, is_coalesced=True
    )
    return adjacency if sparse else adjacency.to_dense()


def correlation(
    train: Windows,
    *,
    k: int,
    lag: int = 0,
    channel: object = None,
    absolute: bool = False,
    min_pairs: int = 10,
) -> Tensor:
    r"""An edge into each place from the ``k`` places that correlate most with it in the training part.

    .. math:: A_{ij} = \mathrm{corr}(x_i(t), x_j(t - \tau))

    With a ``lag`` :math:`\tau` above 0, j leads i. Only positive correlations become edges, so that fewer than ``k``
    are possible; with ``absolute`` the size of the correlation counts and is the weight. A correlation is that of the
    steps at which both places are observed; one of fewer than ``min_pairs`` such steps is no edge, and a place without
    variation has none. Of equal correlations the place with the smaller number comes first. A shared season or trend
    makes all places look alike: remove it first, with ``train.map``.

    Shapes: the field is ``(T, C, *S)``, and ``channel``, the label of one, is needed if there are several. Gives (N, N)
    with N places in the order of ``field.flatten(2)``; the diagonal is 0.
    Raises ValueError for a validation or test part, which would leak the future into the graph; for an unknown or
    missing ``channel``, ``k`` outside 1 to N - 1, a negative lag, or fewer than ``min_pairs`` steps after the lag.

    >>> from stlib.data import windows, worlds
    >>> field = worlds.GraphDiffusion(nodes=10).simulate(1000, seed=0)
    >>> correlation(windows.split(field, past=4, horizon=1).train, k=3, lag=1).count_nonzero(1).tolist()
    [3, 3, 3, 3, 3, 3, 3, 3, 3, 3]
    """
    if train.part != "train":
        raise ValueError(f"a graph is learned on the training part only, got the {train.part} part: that would leak")
    names = train.labels.get_index("channel")
    if channel not in names and (channel is not None or len(names) > 1):
        raise ValueError(f"channel must be one of {', '.join(map(str, names))}, got {channel!r}")
    position = 0 if channel is None else names.get_loc(channel)
    x = train.series[:, position].reshape(len(train.series), -1).double()  # (T, N)
    _check_k(k, x.shape[1])
    if lag < 0 or min_pairs < 2 or len(x) - lag < min_pairs:
        raise ValueError(
            f"needs lag >= 0, min_pairs >= 2 and lag + min_pairs training steps, got {lag}, {min_pairs} and {len(x)}"
        )
    mean = x.nanmean(0)
    spread = (x - mean).square_().nanmean(0).sqrt()
    varying = (spread > 0).nonzero().flatten()  # the others would only cost time
    strength = x.new_zeros(x.shape[1], x.shape[1])
    r = _pearson(((x - mean) / spread)[:, varying], lag, min_pairs)
    strength[varying[:, None], varying] = r.abs() if absolute else r.clamp_min(0)
    strength.fill_diagonal_(0)
    return torch.where(_smallest(-strength, k), strength, 0).to(train.series.dtype)


def symmetrise(adjacency: Tensor, *, how: str) -> Tensor:
    r"""Edges without direction: :math:`\max(A_{ij}, A_{ji})` for ``how="either"``, the minimum for ``how="both"``.

    ``"either"`` keeps an edge that is there in one direction, ``"both"`` only one that is there in both.

    Shapes: (N, N) to (N, N), dense.
    Raises ValueError for an unknown ``how``, or an adjacency that is sparse, not square, missing or negative.

    >>> symmetrise(torch.tensor([[0.0, 1.0], [0.0, 0.0]]), how="either")
    tensor([[0., 1.],
            [1., 0.]])
    """
    adjacency = _nonnegative(adjacency)
    if how not in ("either", "both") or adjacency.is_sparse:
        raise ValueError(f'how must be "either" or "both" and adjacency dense, got {how!r} and {adjacency.layout}')
    return torch.maximum(adjacency, adjacency.T) if how == "either" else torch.minimum(adjacency, adjacency.T)


def normalise(adjacency: Tensor, *, how: str = "symmetric", self_loops: bool = True) -> Tensor:
    r"""Weights that do not grow with the number of neighbours, so that a layer averages and does not add up.

    .. math:: \tilde A = D^{-1/2} A D^{-1/2} \text{ ("symmetric")} \quad\text{or}\quad
       \tilde A = D^{-1} A \text{ ("random walk")}, \qquad D_{ii} = \sum_j A_{ij}

    ``self_loops`` replaces :math:`A` by :math:`A + I` first, which also adds 1 to a diagonal that is not zero. The rows
    of the random walk sum to 1; the largest eigenvalue of the symmetric one is 1. A place that takes from nobody has a
    row of zeros. The way back of a random walk is ``normalise(A.T, how="random walk")``.

    Shapes: (N, N) to (N, N), dense or sparse COO as given.
    Raises ValueError for an unknown ``how``, an adjacency that is not square, missing or negative, or one with a
    direction for ``"symmetric"``.
    Source: Kipf & Welling (2017), doi:10.48550/arXiv.1609.02907, for the symmetric one with self-loops.

    >>> normalise(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    tensor([[0.5000, 0.5000],
            [0.5000, 0.5000]])
    """
    adjacency = _nonnegative(adjacency)
    if how not in ("symmetric", "random walk"):
        raise ValueError(f'how must be "symmetric" or "random walk", got {how!r}')
    weight = adjacency.double()
    if self_loops:
        weight = _add_diagonal(weight, torch.ones_like(weight.sum(1).to_dense()))
    degree = weight.sum(1).to_dense()
    if how == "random walk":
        return (weight * degree.reciprocal().masked_fill(degree == 0, 0)[:, None]).to(adjacency.dtype)
    difference = _entries(weight - weight.T).abs()
    if difference.numel() and difference.max() > 1e-6 * _entries(weight).max():
        raise ValueError(
            f"adjacency must be symmetric here, got weights that differ by {difference.max().item():.3g} between the "
            'two directions: use symmetrise first, or normalise with how="random walk"'
        )
    root = degree.rsqrt().masked_fill(degree == 0, 0)
    return (weight * root[:, None] * root).to(adjacency.dtype)


def laplacian(adjacency: Tensor, *, rescaled: bool = False) -> Tensor:
    r"""The normalised Laplacian :math:`\mathcal L = I - D^{-1/2} A D^{-1/2}`: how a place differs from its neighbours.

    Its eigenvalues lie in [0, 2], and as many are 0 as the graph has connected pieces: the diagonal of a place without
    neighbours is 0, not 1. ``rescaled`` gives :math:`2 \mathcal L / \lambda_{\max} - I`, with eigenvalues in [-1, 1],
    of which Chebyshev polynomials are taken; a graph without edges has :math:`\lambda_{\max} = 2` here.

    Shapes: (N, N) to (N, N), dense or sparse COO as given.
    Raises ValueError for an adjacency that is not square, missing, negative or not symmetric.
    Source: Defferrard et al. (2016), doi:10.48550/arXiv.1606.09375.

    >>> laplacian(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    tensor([[ 1., -1.],
            [-1.,  1.]])
    """
    adjacency = _nonnegative(adjacency)
    weight = adjacency.double()
    connected = (weight.sum(1).to_dense() > 0).double()
    result = _add_diagonal(-normalise(weight, self_loops=False), connected)
    if rescaled:
        result = _add_diagonal(result * (2 / _largest_eigenvalue(result)), -torch.ones_like(connected))
    return result.to(adjacency.dtype)


def describe(adjacency: Tensor) -> pd.Series:
    """Counts that tell what a graph is like, worth a look before a network sees it.

    An edge has a direction: an edge without one counts twice. Loops, the entries of the diagonal, and missing weights
    are counted on their own and are no edges. The degree of a place is the number of edges into it; it is isolated if
    it has none in either direction. Components are the pieces that hang together when directions are ignored.

    Shapes: (N, N), dense or sparse COO.
    Raises ValueError for an adjacency that is not square.

    >>> describe(torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))["components"]
    2
    """
    adjacency = _square(adjacency)
    nodes = len(adjacency)
    adjacency = adjacency if adjacency.is_sparse else adjacency.to_sparse()
    (target, source), weight = adjacency.indices().cpu().numpy(), adjacency.values().detach().cpu().double().numpy()
    missing, loop = np.isnan(weight), target == source
    edge = (weight != 0) & ~missing & ~loop
    graph = coo_array((weight[edge], (target[edge], source[edge])), shape=(nodes, nodes)).tocsr()
    into, out = (np.bincount(end[edge], minlength=nodes) for end in (target, source))
    return pd.Series(
        {
            "nodes": nodes,
            "edges": int(edge.sum()),
            "loops": int((loop & ~missing & (weight != 0)).sum()),
            "symmetric": bool(abs(graph - graph.T).max() <= 1e-6 * abs(graph).max()),
            "isolated": int((into + out == 0).sum()),
            "components": int(csgraph.connected_components(graph, connection="weak")[0]),
            "smallest degree": int(into.min()),
            "largest degree": int(into.max()),
            "negative": int((weight < 0).sum()),
            "missing": int(missing.sum()),
        },
        dtype=object,
    )


def _floating(values) -> Tensor:
    values = values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
    return values if values.is_floating_point() else values.float()


def _square(matrix, name: str = "adjacency") -> Tensor:
    matrix = _floating(matrix)
    if matrix.ndim != 2 or len(matrix) != matrix.shape[1] or len(matrix) == 0:
        raise ValueError(f"{name} must be (N, N) with N >= 1, got shape {tuple(matrix.shape)}")
    if matrix.layout not in (torch.strided, torch.sparse_coo):
        raise ValueError(f"{name} must be dense or sparse COO, got {matrix.layout}")
    return matrix.coalesce() if matrix.is_sparse else matrix


def _distances(distance) -> Tensor:
    distance = _square(distance, "distance")
    if distance.is_sparse:
        raise ValueError("distance must be dense, got a sparse tensor, in which what is left out would be 0")
    if not (distance >= 0).all():
        raise ValueError(
            f"distance must be 0 or more, infinite where there is no way, got {int(distance.isnan().sum())} missing "
            f"and {int((distance < 0).sum())} negative"
        )
    return distance


def _nonnegative(adjacency) -> Tensor:
    adjacency = _square(adjacency)
    weight = _entries(adjacency)
    if not (weight.isfinite().all() and (weight >= 0).all()):
        raise ValueError(
            f"adjacency must have finite weights of 0 or more, got {int((~weight.isfinite()).sum())} missing or "
            f"infinite and {int((weight < 0).sum())} negative"
        )
    return adjacency


def _check_k(k: int, places: int) -> None:
    if not 1 <= k < places:
        raise ValueError(f"k must be from 1 to N - 1, got {k} for N = {places} places")


def _smallest(values: Tensor, k: int) -> Tensor:
    """True at the ``k`` smallest of each row; of equal ones the first, which topk does not promise."""
    first = values.argsort(dim=1, stable=True)[:, :k]
    return torch.zeros_like(values, dtype=torch.bool).scatter_(1, first, True)


def _pearson(x: Tensor, lag: int, min_pairs: int) -> Tensor:
    """Correlation of each column now with each column ``lag`` steps ago over the steps where both are observed."""
    observed = ~x.isnan()
    # Without gaps the counts and sums are the same for every partner: one column, and one large product and not six.
    seen = observed.double() if not observed.all() else torch.ones_like(x[:, :1])
    x = x.nan_to_num()
    now, before, seen_now, seen_before = x[lag:], x[: len(x) - lag], seen[lag:], seen[: len(x) - lag]
    count = seen_now.T @ seen_before
    sum_now, sum_before = now.T @ seen_before, seen_now.T @ before
    square_now, square_before = now.square().T @ seen_before, seen_now.T @ before.square()
    variance_now, variance_before = square_now - sum_now.square() / count, square_before - sum_before.square() / count
    r = (now.T @ before - sum_now * sum_before / count) / (variance_now * variance_before).sqrt()
    # A place may stand still in the shared steps only: what is left of its variance is then rounding.
    sound = (variance_now > 1e-10 * square_now) & (variance_before > 1e-10 * square_before) & (count >= min_pairs)
    return torch.where(sound, r.clamp(-1, 1), 0)


def _entries(matrix: Tensor) -> Tensor:
    return matrix.coalesce().values() if matrix.is_sparse else matrix


def _add_diagonal(matrix: Tensor, values: Tensor) -> Tensor:
    if not matrix.is_sparse:
        return matrix + values.diag()
    index = torch.arange(len(values), device=values.device).expand(2, -1)
    return (matrix + torch.sparse_coo_tensor(index, values, matrix.shape, check_invariants=True)).coalesce()


def _largest_eigenvalue(laplacian: Tensor) -> float:
    entries = (laplacian if laplacian.is_sparse else laplacian.to_sparse()).coalesce().cpu()
    if entries.values().abs().sum() < 1e-9:  # no edges: all eigenvalues are 0
        return 2.0
    if len(laplacian) <= 500:
        return torch.linalg.eigvalsh(entries.to_dense())[-1].item()
    matrix = coo_array((entries.values().numpy(), tuple(entries.indices().numpy())), shape=laplacian.shape).tocsr()
    start = np.random.default_rng(0).standard_normal(len(laplacian))  # the same answer each time
    return float(eigsh(matrix, k=1, which="LA", v0=start, tol=1e-8, return_eigenvectors=False)[0])
