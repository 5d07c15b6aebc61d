import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.sparse import csgraph
from sklearn.metrics.pairwise import haversine_distances
from sklearn.neighbors import BallTree, kneighbors_graph

from stlib.data import datasets
from stlib.data.graphs import (
    contiguity,
    correlation,
    describe,
    gaussian,
    great_circle,
    laplacian,
    nearest,
    normalise,
    symmetrise,
)
from stlib.data.windows import split
from stlib.data.worlds import GraphDiffusion

RADIUS = 6371.0088


def positions(places=40, seed=0):
    generator = np.random.default_rng(seed)
    return generator.uniform(-90, 90, places), generator.uniform(-180, 180, places)


def weighted(places=12, seed=0, edges=0.3):
    """A symmetric graph with random weights; small shares of edges leave places alone."""
    generator = np.random.default_rng(seed)
    upper = np.triu(generator.uniform(0.5, 2, (places, places)) * (generator.random((places, places)) < edges), 1)
    return torch.from_numpy(upper + upper.T)


def field(values, dims=("node",)):
    values = np.asarray(values)
    values = values[:, None] if values.ndim == 1 + len(dims) else values
    return xr.DataArray(
        values,
        dims=("time", "channel", *dims),
        coords={"time": np.arange(len(values)), "channel": ["a", "b", "c"][: values.shape[1]]},
    )


def training(values, steps, **options):
    """The training part of ``steps`` steps, with some steps after it that belong to the others."""
    return split(field(values, **options), past=1, horizon=1, train=steps, validation=2, dtype=torch.float64).train


# Distances


def test_distances_are_scikit_learns():
    lat, lon = positions()
    expected = RADIUS * haversine_distances(np.deg2rad(np.column_stack([lat, lon])))
    distance = great_circle(lat, lon)
    np.testing.assert_allclose(distance, expected, rtol=1e-9, atol=1e-6)
    assert torch.equal(distance, distance.T) and distance.diagonal().abs().max() == 0


@pytest.mark.parametrize(
    ("one", "other", "km"),
    [
        ((41.8781, -87.6298), (40.7128, -74.0060), 1145),  # Chicago and New York
        ((51.5074, -0.1278), (48.8566, 2.3522), 344),  # London and Paris
        ((0, 179.5), (0, -179.5), 111.195),  # one degree across the date line
        ((0, 359.5), (0, 0.5), 111.195),
        ((90, 0), (-90, 77), np.pi * RADIUS),
        ((-8, -128), (8, 52), np.pi * RADIUS),  # antipodes, whose squared sine rounds to more than 1
    ],
)
def test_known_distances(one, other, km):
    assert great_circle(*zip(one, other, strict=True))[0, 1].item() == pytest.approx(km, rel=0.01)


def test_both_conventions_of_longitude_give_one_distance():
    lat, lon = positions()
    torch.testing.assert_close(great_circle(lat, lon), great_circle(lat, lon % 360), rtol=1e-9, atol=1e-6)


def test_coordinates_may_be_reversed_views_integers_and_arrays_with_labels():
    lat, lon = positions()
    torch.testing.assert_close(great_circle(lat[::-1], lon[::-1]), great_circle(lat, lon).flip(0, 1))
    assert great_circle([10, 20], [30, 40]).dtype == torch.float32
    assert great_circle(xr.DataArray(lat), pd.Series(lon)).dtype == torch.float64
    near = torch.linspace(50, 50.001, 9), torch.linspace(8, 8.001, 9)  # some hundred metres, float32 outside only
    torch.testing.assert_close(
        great_circle(*near), great_circle(*(x.double() for x in near)).float(), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize(
    ("lat", "lon", "message"),
    [
        ([1.0, 2.0], [1.0], r"got shapes \(2,\) and \(1,\)"),
        ([[1.0]], [[1.0]], r"must be \(N,\)"),
        ([95.0], [1.0], "lat must be degrees from -90 to 90, got 95"),
        ([np.nan], [1.0], "lat must be degrees from -90 to 90, got nan"),
        ([1.0], [-181.0], "lon must be degrees from -180 to 360, got -181"),
        ([1.0], [361.0], "lon must be degrees from -180 to 360, got 361"),
    ],
)
def test_impossible_coordinates_are_refused(lat, lon, message):
    with pytest.raises(ValueError, match=message):
        great_circle(lat, lon)


# Gaussian weights


def test_weights_are_those_of_the_traffic_literature():
    distance = great_circle(*positions(20)).numpy()
    near = np.unravel_index(np.argmin(distance + 1e6 * np.eye(20)), (20, 20))
    distance[near] = np.inf  # no way there, but one back
    scale = distance[~np.isinf(distance)].std()
    expected = np.zeros((20, 20))
    for i in range(20):
        for j in range(20):
            weight = np.exp(-((distance[i, j] / scale) ** 2))
            expected[i, j] = weight if i != j and weight >= 0.1 else 0
    np.testing.assert_allclose(gaussian(torch.from_numpy(distance)), expected, rtol=1e-12)
    assert 0 < np.count_nonzero(expected) < 20 * 19
    assert expected[near] == 0 and expected.T[near] > 0.9


def test_a_weight_at_the_threshold_stays():
    distance = torch.tensor([[0.0, 1.0, 1.001], [1.0, 0.0, 9.0], [1.001, 9.0, 0.0]], dtype=torch.float64)
    threshold = torch.tensor(-1.0, dtype=torch.float64).exp().item()
    kept = gaussian(distance, scale=1, threshold=threshold)
    assert kept[0].tolist() == [0, threshold, 0] and kept[1].tolist() == [threshold, 0, 0]
    assert gaussian(distance, scale=1, threshold=0)[1, 2].item() == pytest.approx(np.exp(-81), rel=1e-9)


def test_the_scale_has_the_unit_of_the_distances():
    distance = great_circle(*positions())
    torch.testing.assert_close(gaussian(distance), gaussian(1000 * distance))
    torch.testing.assert_close(gaussian(distance, scale=500), gaussian(1000 * distance, scale=500_000))


def test_distances_are_not_changed():
    distance = great_circle(*positions())
    before = distance.clone()
    gaussian(distance)
    nearest(distance, k=3)
    assert torch.equal(distance, before)


# Nearest


def test_the_nearest_are_scikit_learns():
    points = np.random.default_rng(0).normal(size=(50, 2))
    distance = torch.from_numpy(np.linalg.norm(points[:, None] - points, axis=-1))
    for k in (1, 4, 49):
        expected = kneighbors_graph(points, k, include_self=False).toarray()
        np.testing.assert_array_equal(nearest(distance, k=k), expected)


def test_the_nearest_on_the_globe_are_those_of_a_ball_tree():
    lat, lon = positions(80)
    radians = np.deg2rad(np.column_stack([lat, lon]))
    _, neighbours = BallTree(radians, metric="haversine").query(radians, k=6)
    expected = np.zeros((80, 80))
    np.put_along_axis(expected, neighbours, 1, axis=1)
    np.fill_diagonal(expected, 0)
    np.testing.assert_array_equal(nearest(great_circle(lat, lon), k=5), expected)


def test_ties_go_to_the_smaller_number():
    equal = torch.ones(40, 40)
    rows = nearest(equal, k=3)
    for i in range(40):
        assert rows[i].nonzero().flatten().tolist() == [j for j in range(40) if j != i][:3]


def test_places_that_coincide_are_neighbours_and_unreachable_ones_are_not():
    distance = torch.zeros(3, 3)
    distance[0, 2] = distance[1, 2] = torch.inf
    assert nearest(distance, k=2).tolist() == [[0, 1, 0], [1, 0, 0], [1, 1, 0]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: nearest(d, k=0), "k must be from 1 to N - 1, got 0 for N = 4"),
        (lambda d: nearest(d, k=4), "k must be from 1 to N - 1, got 4 for N = 4"),
        (lambda d: nearest(-d, k=1), "got 0 missing and 12 negative"),
        (lambda d: gaussian(d * torch.nan), "got 16 missing and 0 negative"),
        (lambda d: gaussian(d[:3]), r"distance must be \(N, N\) with N >= 1, got shape \(3, 4\)"),
        (lambda d: gaussian(d[:0, :0]), r"got shape \(0, 0\)"),
        (lambda d: gaussian(0 * d), "needs scale > 0 .* got scale=0.0"),
        (lambda d: gaussian(d, scale=-1), "got scale=-1"),
        (lambda d: gaussian(d, threshold=1), "threshold=1"),
        (lambda d: gaussian(d.to_sparse_csr()), "must be dense or sparse COO"),
        (lambda d: nearest(d.to_sparse(), k=1), "distance must be dense"),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_impossible_distances_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(1 - torch.eye(4))


# Contiguity


@pytest.mark.parametrize("shape", [(5, 7), (1, 6), (6, 1), (2, 2), (1, 1)])
@pytest.mark.parametrize("corners", [False, True])
def test_a_lattice_is_libpysals(shape, corners):
    import libpysal

    labels = torch.arange(shape[0] * shape[1]).reshape(shape)
    adjacency = contiguity(labels, corners=corners)
    expected = np.zeros((1, 1)) if shape == (1, 1) else libpysal.weights.lat2W(*shape, rook=not corners).full()[0]
    np.testing.assert_array_equal(adjacency, expected)
    assert torch.equal(contiguity(labels, corners=corners, sparse=True).to_dense(), adjacency)


@pytest.mark.parametrize("corners", [False, True])
def test_regions_are_libpysals_polygons(corners):
    import geopandas
    import libpysal
    from shapely.geometry import box

    labels = np.random.default_rng(3).choice([-1, 0, 2, 3, 5, 11, 12, 40], size=(5, 6))
    rows, columns = np.indices(labels.shape).reshape(2, -1)
    cells = geopandas.GeoDataFrame(
        {"label": labels.ravel()}, geometry=[box(x, y, x + 1, y + 1) for y, x in zip(rows, columns, strict=True)]
    )
    regions = cells[cells.label >= 0].dissolve("label")
    kind = libpysal.weights.Queen if corners else libpysal.weights.Rook
    expected = kind.from_dataframe(regions, use_index=False, silence_warnings=True).full()[0]
    np.testing.assert_array_equal(contiguity(torch.from_numpy(labels), corners=corners), expected)
    assert 0 < expected.sum() < expected.size - len(expected)


@given(
    labels=arrays(np.int64, st.tuples(st.integers(1, 5), st.integers(1, 5)), elements=st.integers(-2, 6)),
    corners=st.booleans(),
    wrap=st.booleans(),
)
def test_regions_are_those_of_a_plain_loop(labels, corners, wrap):
    names = sorted({int(label) for label in labels.ravel() if label >= 0})
    if not names:
        with pytest.raises(ValueError, match="has no region: no label is 0 or more"):
            contiguity(torch.from_numpy(labels))
        return
    expected = np.zeros((len(names), len(names)))
    height, width = labels.shape
    for y in range(height):
        for x in range(width):
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    y2, x2 = y + dy, (x + dx) % width if wrap else x + dx
                    inside = 0 <= y2 < height and 0 <= x2 < width
                    if inside and (corners or 0 in (dy, dx)) and min(labels[y, x], labels[y2, x2]) >= 0:
                        expected[names.index(labels[y, x]), names.index(labels[y2, x2])] = 1
    np.fill_diagonal(expected, 0)
    np.testing.assert_array_equal(contiguity(torch.from_numpy(labels), corners=corners, wrap=wrap), expected)


def test_a_masked_lattice_keeps_the_order_of_the_places_that_are_left():
    mask = torch.tensor([[True, False, True], [True, True, True]])
    labels = torch.where(mask, torch.arange(6).reshape(2, 3), -1)
    everything = contiguity(torch.arange(6).reshape(2, 3))
    assert torch.equal(contiguity(labels), everything[mask.flatten()][:, mask.flatten()])
    assert torch.equal(contiguity(labels.numpy()[::-1]), contiguity(labels.flip(0)))


@pytest.mark.parametrize("labels", [[1, 2], [[1.0, 2.0]], [[True, False]], [[[1]]]])
def test_labels_that_are_no_map_of_whole_numbers_are_refused(labels):
    with pytest.raises(ValueError, match=r"labels must be \(H, W\) whole numbers"):
        contiguity(torch.tensor(labels))


def test_a_sparse_lattice_is_small_and_multiplies_like_a_dense_one():
    labels = torch.arange(118 * 87).reshape(118, 87)
    adjacency = contiguity(labels, sparse=True)
    assert adjacency.is_coalesced() and adjacency._nnz() == 2 * (118 * 86 + 117 * 87)
    degree = (adjacency @ torch.ones(118 * 87, 1)).reshape(118, 87)
    assert degree[0, 0] == 2 and degree[0, 1] == 3 and (degree[1:-1, 1:-1] == 4).all()


# Symmetrise


def test_either_and_both_are_union_and_intersection():
    points = np.random.default_rng(1).normal(size=(30, 2))
    edge = kneighbors_graph(points, 3, include_self=False).toarray().astype(bool)
    directed = torch.from_numpy(edge).double()
    np.testing.assert_array_equal(symmetrise(directed, how="either"), edge | edge.T)
    np.testing.assert_array_equal(symmetrise(directed, how="both"), edge & edge.T)
    assert (edge & edge.T).sum() < edge.sum() < (edge | edge.T).sum()
    weights = torch.tensor([[0.0, 3.0], [2.0, 0.0]])
    assert symmetrise(weights, how="either")[1, 0] == 3 and symmetrise(weights, how="both")[0, 1] == 2


# Normalise and laplacian


@pytest.mark.parametrize("seed", range(4))
def test_the_symmetric_normalisation_is_the_formula_and_has_largest_eigenvalue_1(seed):
    adjacency = weighted(seed=seed)
    with_loops = adjacency.numpy() + np.eye(12)
    root = np.diag(with_loops.sum(1) ** -0.5)
    normal = normalise(adjacency)
    np.testing.assert_allclose(normal, root @ with_loops @ root, rtol=1e-12)
    assert torch.linalg.eigvalsh(normal)[-1].item() == pytest.approx(1, abs=1e-12)
    assert torch.linalg.eigvalsh(normalise(adjacency, self_loops=False))[-1].item() == pytest.approx(1, abs=1e-12)


def test_the_rows_of_a_random_walk_sum_to_1_and_divide_what_was_there():
    directed = nearest(great_circle(*positions()), k=3).double() * torch.from_numpy(
        np.random.default_rng(0).uniform(1, 2, (40, 40))
    )
    walk = normalise(directed, how="random walk", self_loops=False)
    torch.testing.assert_close(walk.sum(1), torch.ones(40, dtype=torch.float64))
    torch.testing.assert_close(walk * directed.sum(1, keepdim=True), directed)
    torch.testing.assert_close(
        normalise(directed, how="random walk"), (directed + torch.eye(40)) / (1 + directed.sum(1, keepdim=True))
    )


@pytest.mark.parametrize("how", ["symmetric", "random walk"])
def test_a_place_alone_has_a_row_of_zeros_or_only_itself(how):
    adjacency = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert normalise(adjacency, how=how, self_loops=False).tolist() == adjacency.tolist()
    assert normalise(adjacency, how=how)[2].tolist() == [0, 0, 1]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("edges", [0.05, 0.15, 0.5])
def test_the_laplacian_is_scipys_and_counts_the_pieces(seed, edges):
    adjacency = weighted(20, seed=seed, edges=edges)
    operator = laplacian(adjacency)
    np.testing.assert_allclose(operator, csgraph.laplacian(adjacency.numpy(), normed=True), atol=1e-12)
    eigenvalues = torch.linalg.eigvalsh(operator)
    assert eigenvalues[0] > -1e-12 and eigenvalues[-1] < 2 + 1e-12
    assert (eigenvalues.abs() < 1e-9).sum() == describe(adjacency)["components"]


def test_a_graph_of_two_camps_has_eigenvalue_2():
    lattice = contiguity(torch.arange(12).reshape(3, 4)).double()
    assert torch.linalg.eigvalsh(laplacian(lattice))[-1].item() == pytest.approx(2, abs=1e-12)
    torch.testing.assert_close(laplacian(lattice, rescaled=True), laplacian(lattice) - torch.eye(12))


@pytest.mark.parametrize("places", [12, 600])  # all eigenvalues, and the largest one by iteration
@pytest.mark.parametrize("sparse", [False, True])
def test_the_rescaled_laplacian_fills_minus_1_to_1(places, sparse):
    adjacency = weighted(places, edges=5 / places)
    operator = laplacian(adjacency.to_sparse() if sparse else adjacency, rescaled=True)
    assert operator.is_sparse == sparse
    eigenvalues = torch.linalg.eigvalsh(operator.to_dense())
    assert eigenvalues[0].item() == pytest.approx(-1, abs=1e-12)
    assert eigenvalues[-1].item() == pytest.approx(1, abs=1e-6)
    largest = torch.linalg.eigvalsh(laplacian(adjacency))[-1]
    torch.testing.assert_close(
        operator.to_dense(), 2 * laplacian(adjacency) / largest - torch.eye(places), rtol=1e-6, atol=1e-8
    )


@pytest.mark.parametrize("places", [1, 3, 600])
@pytest.mark.parametrize("graph", [torch.zeros, lambda n, _: torch.eye(n)])
def test_without_edges_the_laplacian_is_0_and_rescaled_minus_the_identity(places, graph):
    adjacency = graph(places, places)
    assert laplacian(adjacency).abs().max() < 1e-6
    torch.testing.assert_close(laplacian(adjacency, rescaled=True), -torch.eye(places))


@pytest.mark.parametrize(
    "function",
    [
        normalise,
        lambda a: normalise(a, self_loops=False),
        lambda a: normalise(a, how="random walk"),
        laplacian,
        lambda a: laplacian(a, rescaled=True),
    ],
)
def test_sparse_and_dense_agree(function):
    dense = weighted(15, edges=0.1).float()
    sparse = function(dense.to_sparse())
    assert sparse.is_coalesced() and sparse.dtype == torch.float32
    torch.testing.assert_close(sparse.to_dense(), function(dense))


def test_a_sparse_graph_may_be_empty_or_hold_zeros():
    empty = torch.zeros(3, 3).to_sparse()
    assert normalise(empty, self_loops=False)._nnz() == 0 and not laplacian(empty).to_dense().any()
    torch.testing.assert_close(normalise(empty).to_dense(), torch.eye(3))
    index = torch.tensor([[0, 0, 1, 2], [1, 2, 0, 0]])
    held = torch.sparse_coo_tensor(index, torch.tensor([1.0, 0, 1, 0]), (3, 3), check_invariants=True)
    assert describe(held).equals(describe(held.to_dense())) and describe(held)["edges"] == 2
    twice = torch.sparse_coo_tensor(index.repeat(1, 2), torch.ones(8), (3, 3), check_invariants=True)  # entries add up
    assert describe(twice)["edges"] == 4
    torch.testing.assert_close(normalise(twice).to_dense(), normalise(twice.to_dense()))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: normalise(a[:2]), r"adjacency must be \(N, N\)"),
        (lambda a: normalise(1 / a), "got 3 missing or infinite and 0 negative"),
        (lambda a: normalise((-a).to_sparse()), "got 0 missing or infinite and 6 negative"),
        (lambda a: laplacian(a * torch.nan), "got 9 missing or infinite"),
        (lambda a: normalise(a, how="row"), 'how must be "symmetric" or "random walk", got \'row\''),
        (lambda a: normalise(a.triu()), "weights that differ by 1 between the two directions: use symmetrise"),
        (lambda a: laplacian(a.triu().to_sparse()), "weights that differ by 1"),
        (lambda a: symmetrise(a, how="mean"), 'how must be "either" or "both"'),
        (lambda a: symmetrise(a.to_sparse(), how="both"), "adjacency dense, got 'both' and torch.sparse_coo"),
        (lambda a: symmetrise(-a, how="both"), "6 negative"),
        (lambda a: describe(a[0]), r"adjacency must be \(N, N\) with N >= 1, got shape \(3,\)"),
    ],
)
def test_impossible_graphs_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(1 - torch.eye(3))  # a triangle


# Describe


def test_the_counts_are_libpysals():
    import libpysal

    for edges in (0.05, 0.3):
        adjacency = weighted(30, edges=edges)
        neighbours = {i: adjacency[i].nonzero().flatten().tolist() for i in range(30)}
        reference = libpysal.weights.W(neighbours, silence_warnings=True)
        for graph in (adjacency, adjacency.to_sparse()):
            counts = describe(graph)
            assert counts["nodes"] == reference.n and counts["edges"] == sum(reference.cardinalities.values())
            assert counts["components"] == reference.n_components and counts["isolated"] == len(reference.islands)
            assert counts["smallest degree"] == min(reference.cardinalities.values())
            assert counts["largest degree"] == max(reference.cardinalities.values())
            assert counts["symmetric"] is True and counts["loops"] == counts["negative"] == counts["missing"] == 0


def test_direction_loops_negative_and_missing_weights_are_told_apart():
    adjacency = torch.tensor(
        [
            [2.0, 0.0, 0.0, 0.0, 0.0],
            [1.0, 0.0, -3.0, 0.0, 0.0],
            [0.0, 0.0, 0.0, 0.0, 0.0],
            [0.0, 0.0, 0.0, 0.0, torch.nan],
            [0.0, 0.0, 0.0, 0.0, torch.nan],
        ]
    )
    counts = describe(adjacency)
    assert counts.to_dict() == {
        "nodes": 5,
        "edges": 2,  # 0 -> 1 and 2 -> 1
        "loops": 1,
        "symmetric": False,
        "isolated": 2,
        "components": 3,
        "smallest degree": 0,
        "largest degree": 2,
        "negative": 1,
        "missing": 2,
    }


def test_the_shipped_borders_of_the_states_are_as_their_card_says():
    data = datasets.load("us-income")
    adjacency = torch.from_numpy(data.adjacency.values)
    counts = describe(data.adjacency)  # takes what numpy takes
    assert counts["nodes"] == 48 and counts["edges"] == 214 and counts["components"] == 1
    assert counts["symmetric"] and counts["isolated"] == counts["loops"] == counts["missing"] == 0
    assert (counts["smallest degree"], counts["largest degree"]) == (1, 8)
    maine = data.adjacency.sel(state="Maine")
    assert maine.neighbour[maine.values == 1].values.tolist() == ["New Hampshire"]
    eigenvalues = torch.linalg.eigvalsh(laplacian(adjacency.double()))
    assert (eigenvalues < 1e-9).sum() == 1 and eigenvalues[-1] < 2


# Correlation


def strongest(r, k):
    """The k largest positive entries of each row apart from the diagonal, by a plain loop."""
    kept = np.zeros_like(r)
    for i, row in enumerate(r):
        others = sorted((j for j in range(len(row)) if j != i and row[j] > 0), key=lambda j: -row[j])
        for j in others[:k]:
            kept[i, j] = row[j]
    return kept


@pytest.mark.parametrize("share", [0, 0.3])
@pytest.mark.parametrize("lag", [0, 2])
def test_correlations_are_those_of_pandas(share, lag):
    generator = np.random.default_rng(0)
    values = generator.normal(size=(70, 9)) @ generator.normal(size=(9, 9)) + 1e3
    values[generator.random(values.shape) < share] = np.nan
    train, series = training(values, 60), pd.DataFrame(values[:60])
    r = np.array([[series[i].corr(series[j].shift(lag), min_periods=10) for j in range(9)] for i in range(9)])
    np.testing.assert_allclose(correlation(train, k=3, lag=lag), strongest(r, 3), rtol=1e-8)
    np.testing.assert_allclose(correlation(train, k=8, lag=lag), strongest(r, 8), rtol=1e-8)
    np.testing.assert_allclose(correlation(train, k=3, lag=lag, absolute=True), strongest(abs(r), 3), rtol=1e-8)
    assert (r < 0).any()


def test_a_leader_acts_on_who_follows():
    leader = np.random.default_rng(0).normal(size=104)
    values = np.column_stack([leader[:-2], leader[2:]])  # place 1 shows now what place 0 shows two steps later
    adjacency = correlation(training(values, 90), k=1, lag=2)
    assert adjacency[0, 1].item() == pytest.approx(1, abs=1e-12) and abs(adjacency[1, 0]) < 0.3


def test_a_long_run_of_a_known_world_gives_its_own_correlations_and_edges():
    world = GraphDiffusion(nodes=15, max_lag=1, spectral_radius=0.7)
    train = split(world.simulate(20_010, seed=0), past=1, horizon=1, train=20_000, validation=5).train
    lagged = (world.companion @ world.covariance)[:15, :15]  # the covariance of x_i(t) and x_j(t - 1)
    expected = lagged / np.sqrt(np.outer(world.variance, world.variance))
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(correlation(train, k=14, lag=1), expected, atol=0.03)
    true = (world.lags > 0) & ~np.eye(15, dtype=bool)
    found = correlation(train, k=3, lag=1).numpy() > 0
    np.testing.assert_array_equal(found, true)  # all 45, in the right direction:
    assert (true & true.T).sum() == 32


@pytest.mark.parametrize("part", [1, 2])
def test_a_graph_of_later_parts_is_refused(part):
    parts = split(field(np.random.default_rng(0).normal(size=(90, 4))), past=1, horizon=1)
    with pytest.raises(ValueError, match="training part only, got the (validation|test) part: that would leak"):
        correlation(parts[part], k=1)


def test_later_parts_do_not_move_the_graph():
    values = np.random.default_rng(0).normal(size=(90, 6))
    changed = values.copy()
    changed[60:] = values[60:, ::-1] * 100
    assert torch.equal(correlation(training(values, 60), k=2), correlation(training(changed, 60), k=2))
    assert not torch.equal(correlation(training(values, 61), k=2), correlation(training(changed, 61), k=2))


def test_places_that_say_nothing_have_no_edges():
    common = np.random.default_rng(0).normal(size=(70, 1))
    values = common + np.random.default_rng(1).normal(size=(70, 6))
    values[:, 1] = 0.1  # constant, and not a number that float64 has
    values[:, 2] = np.nan
    values[9:, 3] = np.nan  # fewer pairs than 10
    values[:30, 4] = 0.3  # stands still while 5 is observed, and moves afterwards
    values[30:, 5] = np.nan
    adjacency = correlation(training(values, 60), k=5)
    assert not adjacency.isnan().any()
    assert adjacency.nonzero().tolist() == [[0, 4], [0, 5], [4, 0], [5, 0]]
    assert correlation(training(values, 60), k=5, min_pairs=9)[3].count_nonzero() > 0
    for still in np.geomspace(0.01, 10, 50):  # what rounding leaves of no variance must not count
        values[:30, 4] = still
        assert correlation(training(values, 60), k=5)[4:, 4:].count_nonzero() == 0
    assert correlation(training(values * np.nan_to_num(np.nan), 60), k=5).count_nonzero() == 0


def test_a_channel_is_chosen_by_its_label_and_places_of_a_grid_are_counted_by_rows():
    values = np.random.default_rng(0).normal(size=(70, 2, 3, 4))
    train = training(values, 60, dims=("y", "x"))
    expected = strongest(np.corrcoef(values[:60, 1].reshape(60, 12).T), 4)
    np.testing.assert_allclose(correlation(train, k=4, channel="b"), expected, rtol=1e-9)
    with pytest.raises(ValueError, match="channel must be one of a, b, got None"):
        correlation(train, k=4)
    with pytest.raises(ValueError, match="channel must be one of a, b, got 'c'"):
        correlation(train, k=4, channel="c")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k must be from 1 to N - 1, got 0"),
        ({"k": 4}, "k must be from 1 to N - 1, got 4 for N = 4"),
        ({"k": 1, "lag": -1}, "needs lag >= 0, .* got -1, 10 and 20"),
        ({"k": 1, "lag": 11}, "got 11, 10 and 20"),
        ({"k": 1, "min_pairs": 1}, "got 0, 1 and 20"),
    ],
)
def test_impossible_correlations_are_refused(options, message):
    values = np.random.default_rng(0).normal(size=(26, 4))
    with pytest.raises(ValueError, match=message):
        correlation(training(values, 20), **options)
    assert correlation(training(values, 20), k=1, lag=10).shape == (4, 4)


# All of them


@settings(max_examples=30, deadline=None)
@given(places=st.integers(3, 9), seed=st.integers(0, 10_000))
def test_renaming_the_places_renames_the_graph(places, seed):
    generator = np.random.default_rng(seed)
    order = generator.permutation(places)
    lat, lon = positions(places, seed)
    values = generator.normal(size=(40, places))
    values[generator.random(values.shape) < 0.1] = np.nan

    def renamed(matrix):
        return matrix[order][:, order]

    def check(after, before):
        torch.testing.assert_close(after, renamed(before), rtol=1e-7, atol=1e-7)

    distance = great_circle(lat, lon)
    check(great_circle(lat[order], lon[order]), distance)
    weights = weighted(places, seed)
    for function, matrix in [
        (gaussian, distance),
        (lambda d: nearest(d, k=2), distance),
        (lambda d: symmetrise(nearest(d, k=2), how="both"), distance),
        (normalise, weights),
        (lambda a: normalise(a, how="random walk", self_loops=False), distance),
        (lambda a: laplacian(a, rescaled=True), weights),
    ]:
        check(function(renamed(matrix)), function(matrix))
    assert describe(renamed(weights)).equals(describe(weights))
    for lag in (0, 1):
        train, shuffled = (training(v, 36) for v in (values, values[:, order]))
        check(correlation(shuffled, k=2, lag=lag), correlation(train, k=2, lag=lag))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_is_that_of_the_input(dtype):
    lat, lon = (torch.from_numpy(x).to(dtype) for x in positions(6))
    distance = great_circle(lat, lon)
    graphs = [distance, gaussian(distance), nearest(distance, k=2), normalise(distance), laplacian(distance)]
    graphs += [symmetrise(distance, how="both"), laplacian(distance, rescaled=True)]
    parts = split(field(np.random.default_rng(0).normal(size=(60, 4))), past=1, horizon=1, dtype=dtype)
    graphs.append(correlation(parts.train, k=1))
    assert {graph.dtype for graph in graphs} == {dtype}
    whole = torch.tensor([[0, 1], [1, 0]])
    assert normalise(whole).dtype == nearest(whole, k=1).dtype == torch.float32
    assert torch.equal(nearest(distance.flip(0, 1).T, k=2), nearest(distance.flip(0, 1).T.contiguous(), k=2))
