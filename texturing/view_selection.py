"""One photo for every cell, in large calm patches: a Markov random field, solved by TRW-S.

Energy: sum over faces of area_f * cost_f(label) + seam_length * sum over edges of length_e * [labels differ]. Both
terms measure the surface, not the triangles, so the patches do not depend on how it is cut.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64
from numba import njit

from texturing.cells import Cells
from texturing.visibility import Observations

UNSEEN_COST = 20.0
"""For a photo that does not see the cell: a density e^20 times worse than the best one's."""


class Graph(NamedTuple):
    """Neighbours in compressed rows; `slot` of a directed edge and its opposite are `reverse` of each other."""

    first: Int64[np.ndarray, " n_nodes_plus_1"]
    neighbour: Int64[np.ndarray, " n_directed"]
    weight: Float32[np.ndarray, " n_directed"]
    reverse: Int64[np.ndarray, " n_directed"]


def make_graph(n_nodes: int, left: np.ndarray, right: np.ndarray, weight: np.ndarray) -> Graph:
    """The graph of undirected edges (left, right) with Potts weights."""
    n = len(left)
    tail, head = np.concatenate([left, right]), np.concatenate([right, left])
    order = np.lexsort((head, tail))
    place = np.empty(2 * n, np.int64)
    place[order] = np.arange(2 * n)
    opposite = np.concatenate([np.arange(n, 2 * n), np.arange(n)])
    first = np.searchsorted(tail[order], np.arange(n_nodes + 1)).astype(np.int64)
    both = np.concatenate([weight, weight]).astype(np.float32)
    return Graph(first, head[order].astype(np.int64), both[order], place[opposite[order]])


def select_views(
    cells: Cells, cost: Float64[np.ndarray, "n_faces n_views"], seam_length_world: float, n_rounds: int = 25
) -> Int64[np.ndarray, " n_faces"]:
    """The photo of each cell; faces that no photo sees follow their neighbours.

    seam_length_world: how much seam a unit of cost over a unit of area is worth; raising it makes patches larger.
    """
    scale = 1 / max(float(cells.areas.mean()), 1e-300)
    unary = (cost * (cells.areas * scale)[:, None]).astype(np.float32)
    unary -= unary.min(1, keepdims=True)
    left, right, length = cells.adjacency
    # TRW-S converges fastest along a sweep, so the faces are numbered along the object's longest direction.
    middle = cells.vertices_world[cells.faces].mean(1)
    axis = np.linalg.svd(np.cov((middle - middle.mean(0)).T))[0][:, 0]
    order = np.argsort(middle @ axis, kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    graph = make_graph(len(order), rank[left], rank[right], length * (seam_length_world * scale))
    labels = solve_potts(np.ascontiguousarray(unary[order]), graph, n_rounds)[0]
    return labels[rank]


def selection_cost(observations: Observations, score: np.ndarray, rejected: np.ndarray) -> np.ndarray:
    """How much worse each photo is for each cell than the cell's best: log density, doubt, edges, partial sight.

    score: deviations from the photos' agreement (`levelling.disagreement`).
    """
    density = np.where(observations.seen, observations.density, 0)
    best = np.maximum(density.max(1, keepdims=True), 1e-300)
    cost = np.log(best / np.maximum(density, best * 1e-6))
    cost += 0.5 * np.minimum(np.maximum(score - 1, 0), 4) + 4.0 * rejected
    cost += 2 * (1 - observations.share) + 2 * (1 - observations.safety)
    return np.where(observations.seen, np.minimum(cost, UNSEEN_COST), UNSEEN_COST)


def potts_energy(unary: np.ndarray, graph: Graph, labels: np.ndarray) -> float:
    """Unary costs plus the weights of the edges whose ends differ."""
    tail = np.repeat(np.arange(len(unary)), np.diff(graph.first))
    differ = labels[tail] != labels[graph.neighbour]
    return float(unary[np.arange(len(unary)), labels].sum() + 0.5 * graph.weight[differ].sum())


def solve_potts(
    unary: Float32[np.ndarray, "n_nodes n_labels"], graph: Graph, n_rounds: int
) -> tuple[np.ndarray, float]:
    """Labels of low energy by TRW-S (Kolmogorov 2006, fig. 3), finished by single flips; and their energy."""
    messages = np.zeros((len(graph.neighbour), unary.shape[1]), np.float32)
    best = unary.argmin(1).astype(np.int64)
    best_energy = potts_energy(unary, graph, best)
    labels = best.copy()
    calm = 0
    for _ in range(n_rounds):
        _sweep(unary, graph, messages, labels, True)
        _sweep(unary, graph, messages, labels, False)
        candidate = labels.copy()
        _flip_singles(unary, graph, candidate)
        energy = potts_energy(unary, graph, candidate)
        calm = 0 if energy < best_energy * (1 - 1e-4) - 1e-9 else calm + 1
        if energy < best_energy:
            best, best_energy = candidate, energy
        if calm >= 4:
            break
    return best, best_energy


@njit(cache=True, nogil=True, fastmath=True)
def _sweep(unary, graph, messages, labels, forward):  # type: ignore[no-untyped-def]
    """One pass over the nodes; `messages[slot of s->t]` is the message INTO s from t."""
    n, n_labels = unary.shape
    belief = np.empty(n_labels, np.float32)
    choice = np.empty(n_labels, np.float32)
    for step in range(n):
        s = step if forward else n - 1 - step
        lo, hi = graph.first[s], graph.first[s + 1]
        belief[:] = unary[s]
        choice[:] = unary[s]
        n_before = 0
        for e in range(lo, hi):
            t = graph.neighbour[e]
            for x in range(n_labels):
                belief[x] += messages[e, x]
            if (t < s) == forward:
                n_before += 1
                choice[labels[t]] -= graph.weight[e]
            else:
                for x in range(n_labels):
                    choice[x] += messages[e, x]
        labels[s] = choice.argmin()
        n_after = hi - lo - n_before
        share = np.float32(1.0 / max(n_before, n_after, 1))
        for e in range(lo, hi):
            t = graph.neighbour[e]
            if (t < s) == forward:
                continue
            back = graph.reverse[e]
            least = np.float32(np.inf)
            for x in range(n_labels):
                messages[back, x] = share * belief[x] - messages[e, x]
                least = min(least, messages[back, x])
            for x in range(n_labels):  # Potts: min over x_s of (h + weight [x_s != x]), less the constant
                messages[back, x] = min(messages[back, x] - least, graph.weight[e])


@njit(cache=True, nogil=True)
def _flip_singles(unary, graph, labels):  # type: ignore[no-untyped-def]
    """Iterated conditional modes until nothing changes: each node takes its best label, the others fixed."""
    n, n_labels = unary.shape
    for _ in range(10):
        changed = False
        for s in range(n):
            lo, hi = graph.first[s], graph.first[s + 1]
            total = np.float32(0)
            for e in range(lo, hi):
                total += graph.weight[e]
            best, best_cost = labels[s], np.float32(np.inf)
            for x in range(n_labels):
                cost = unary[s, x] + total
                for e in range(lo, hi):
                    if labels[graph.neighbour[e]] == x:
                        cost -= graph.weight[e]
                if cost < best_cost - np.float32(1e-6):
                    best, best_cost = x, cost
            if best != labels[s]:
                labels[s] = best
                changed = True
        if not changed:
            return
