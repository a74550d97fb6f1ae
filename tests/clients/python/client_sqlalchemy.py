"""SQLAlchemy's ordinary use: a mapped schema, sessions, a pool, reflection."""

import datetime
import decimal
import json
import sys

import sqlalchemy as sa
from sqlalchemy import orm

import session


class Base(orm.DeclarativeBase):
    pass


class Boat(Base):
    __tablename__ = "boat"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(sa.String(40), unique=True)
    length: orm.Mapped[decimal.Decimal | None] = orm.mapped_column(sa.Numeric(5, 2))
    built: orm.Mapped[datetime.date | None]
    photo: orm.Mapped[bytes | None] = orm.mapped_column(sa.LargeBinary)
    notes: orm.Mapped[dict | None] = orm.mapped_column(sa.JSON)
    trips: orm.Mapped[list["Trip"]] = orm.relationship(back_populates="boat", cascade="all, delete-orphan", order_by="Trip.id")


class Trip(Base):
    __tablename__ = "trip"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    boat_id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey("boat.id"))
    left: orm.Mapped[datetime.datetime]
    boat: orm.Mapped[Boat] = orm.relationship(back_populates="trips")


def fleet():
    at = datetime.datetime(2024, 2, 29, 12, 30, 45)
    return [
        Boat(name="Alma", length=decimal.Decimal("9.50"), built=datetime.date(1999, 12, 31), photo=b"\x00\xff", notes={"crew": ["ü", None]}, trips=[Trip(left=at), Trip(left=at)]),
        Boat(name="Bérta 🚢", trips=[Trip(left=at)]), Boat(name="Cora"),
    ]


def boats(open_session):
    query = sa.select(Boat).options(orm.selectinload(Boat.trips)).order_by(Boat.id)
    return [[boat.id, boat.name, str(boat.length), str(boat.built), repr(boat.photo), boat.notes, [str(trip.left) for trip in boat.trips]] for boat in open_session.scalars(query)]


def insert(engine):
    with orm.Session(engine) as open_session:
        open_session.add_all(fleet())
        open_session.commit()
        return boats(open_session)


def update_and_delete(engine):
    with orm.Session(engine) as open_session, open_session.begin():
        open_session.scalars(sa.select(Boat).where(Boat.name == "Alma")).one().length = decimal.Decimal("10.01")
        changed = open_session.execute(sa.update(Boat).where(Boat.length.is_(None)).values(built=datetime.date(2000, 1, 1))).rowcount
        open_session.delete(open_session.scalars(sa.select(Boat).where(Boat.name == "Cora")).one())
        open_session.flush()
        return [changed, boats(open_session)]


def rollback(engine):
    with orm.Session(engine) as open_session:
        open_session.add(Boat(name="Alma"))
        try:
            open_session.commit()
        except sa.exc.IntegrityError as error:
            open_session.rollback()
            return [repr(error.orig), len(boats(open_session))]


def savepoint(engine):
    with orm.Session(engine) as open_session, open_session.begin():
        with open_session.begin_nested() as nested:
            open_session.add(Boat(name="Dora"))
            open_session.flush()
            nested.rollback()
        return [boat[1] for boat in boats(open_session)]


def aggregates(engine):
    query = sa.select(Boat.name, sa.func.count(Trip.id), sa.func.max(Trip.left)).outerjoin(Trip).group_by(Boat.id).order_by(Boat.id)
    with engine.connect() as connection:
        return [list(map(str, row)) for row in connection.execute(query)]


def bulk(engine):
    with engine.begin() as connection:
        result = connection.execute(sa.insert(Boat), [{"name": f"fleet {number}"} for number in range(2000)])
        count = connection.scalar(sa.select(sa.func.count()).select_from(Boat))
        return [result.rowcount, count, connection.execute(sa.delete(Boat).where(Boat.name.like("fleet %"))).rowcount]


def stream(engine):
    with engine.connect().execution_options(stream_results=True, yield_per=7) as connection:
        rows = connection.execute(sa.text("SELECT a.i, b.i FROM d a, d b ORDER BY 1, 2"))
        return session.shown_rows([row for part in rows.partitions() for row in part])


def reflection(engine):
    metadata = sa.MetaData()
    metadata.reflect(engine, only=["boat", "trip"])
    return [[table.name, [repr(column) for column in table.columns], sorted(str(key.target_fullname) for key in table.foreign_keys)] for table in metadata.sorted_tables]


def isolation(engine):
    with engine.connect().execution_options(isolation_level="READ COMMITTED") as connection:
        during = connection.get_isolation_level()
    with engine.connect() as connection:
        return [during, connection.get_isolation_level(), engine.dialect.server_version_info]


CASES = [insert, update_and_delete, rollback, savepoint, aggregates, bulk, stream, reflection, isolation]


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        plan = json.load(file)
    url = sa.URL.create("mysql+pymysql", plan["user"], plan["password"], plan["host"], plan["port"], plan["schema"], {"charset": "utf8mb4"})
    engine = sa.create_engine(url, pool_size=2, pool_pre_ping=True)
    Base.metadata.create_all(engine)
    for case in CASES:
        try:
            seen = {"seen": case(engine)}
        except sa.exc.SQLAlchemyError as error:
            seen = {"error": repr(error)}
        print(json.dumps({"case": f"orm/{case.__name__.replace('_', '-')}", "steps": [seen]}, default=repr), flush=True)


main()
