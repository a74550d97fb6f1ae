"""Django's ordinary use: migrations' schema editor, models, transactions, the session's own settings."""

import datetime
import decimal
import json
import sys

import django
from django.conf import settings

import session

with open(sys.argv[1], encoding="utf-8") as file:
    PLAN = json.load(file)
settings.configure(
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.mysql", "HOST": PLAN["host"], "PORT": PLAN["port"], "USER": PLAN["user"], "PASSWORD": PLAN["password"], "NAME": PLAN["schema"],
            "CONN_MAX_AGE": 60, "CONN_HEALTH_CHECKS": True, "OPTIONS": {"charset": "utf8mb4", "ssl_mode": "DISABLED"},
        }
    },
    USE_TZ=True, DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()

from django.db import DatabaseError, IntegrityError, connection, models, transaction  # noqa: E402
from django.db.models import Count, F, Q, Sum  # noqa: E402


class Boat(models.Model):
    name = models.CharField(max_length=40, unique=True)
    length = models.DecimalField(max_digits=5, decimal_places=2, null=True)
    built = models.DateField(null=True)
    photo = models.BinaryField(null=True)
    notes = models.JSONField(default=dict)
    seen = models.DateTimeField(null=True)

    class Meta:
        app_label = "harbour"


class Trip(models.Model):
    boat = models.ForeignKey(Boat, on_delete=models.CASCADE)
    took = models.DurationField()
    code = models.UUIDField(null=True)

    class Meta:
        app_label = "harbour"


AT = datetime.datetime(2024, 2, 29, 12, 30, 45, 123456, tzinfo=datetime.timezone.utc)


def boats():
    return [list(map(repr, row)) for row in Boat.objects.order_by("pk").values_list()]


def schema():
    with connection.schema_editor() as editor:
        editor.create_model(Boat)
        editor.create_model(Trip)
        field = models.IntegerField(default=7)
        field.set_attributes_from_name("berth")
        editor.add_field(Boat, field)
        editor.remove_field(Boat, field)
    return [sorted(connection.introspection.table_names()), list(map(repr, connection.introspection.get_table_description(connection.cursor(), "harbour_boat")))]


def create():
    Boat.objects.create(name="Alma", length=decimal.Decimal("9.50"), built=datetime.date(1999, 12, 31), photo=b"\x00\xff", notes={"crew": ["ü", None]}, seen=AT)
    Boat.objects.bulk_create([Boat(name=f"Boat {number} 🚢") for number in range(500)])
    boat, made = Boat.objects.get_or_create(name="Alma")
    again, remade = Boat.objects.update_or_create(name="Boat 3 🚢", defaults={"length": "3.30"})
    return [made, boat.pk, remade, again.pk, Boat.objects.count(), boats()[:5]]


def query():
    Trip.objects.bulk_create([Trip(boat_id=1, took=datetime.timedelta(hours=number, microseconds=1)) for number in range(5)])
    counted = Trip.objects.values("boat__name").annotate(trips=Count("pk")).order_by("boat__name").values_list("boat__name", "trips")
    found = Boat.objects.filter(Q(name__icontains="BOAT 7") | Q(length__gt=9)).order_by("pk").values_list("name", flat=True)
    return [[list(row) for row in counted], list(found), repr(Trip.objects.aggregate(Sum("took"))), list(Boat.objects.filter(notes__crew__0="ü").values_list("pk", flat=True)), list(Boat.objects.filter(seen__year=2024, seen__date="2024-02-29").values_list("pk", flat=True)), repr(list(Boat.objects.dates("built", "month")))]


def update():
    return [Boat.objects.filter(name__startswith="Boat 1").update(length=F("pk") / 10), Boat.objects.filter(pk=1).update(name="Alma"), boats()[:3]]


def delete():
    return [repr(Boat.objects.filter(pk__gt=400).delete()), repr(Trip.objects.filter(boat__name="Alma").delete()), repr(Boat.objects.get(pk=1).delete()), Boat.objects.count()]


def integrity():
    try:
        with transaction.atomic():
            Boat.objects.create(name="Zora")
            Boat.objects.create(name="Zora")
    except IntegrityError as error:
        return [repr(error), Boat.objects.filter(name="Zora").exists()]


def savepoints():
    with transaction.atomic():
        Boat.objects.create(name="Outer")
        try:
            with transaction.atomic():
                Boat.objects.create(name="Inner")
                raise DatabaseError("undo")
        except DatabaseError:
            pass
        Boat.objects.select_for_update().get(name="Outer")
    return sorted(Boat.objects.filter(name__in=["Outer", "Inner"]).values_list("name", flat=True))


def iterate():
    return session.shown_rows([[boat.pk, boat.name] for boat in Boat.objects.order_by("pk").iterator(chunk_size=50)])


def raw():
    with connection.cursor() as cursor:
        cursor.execute("SELECT i, %s FROM d WHERE i > %s ORDER BY i", ["ü", 7])
        rows = cursor.fetchall()
        cursor.execute("SELECT @@transaction_isolation" if PLAN["mysql"] else "SELECT @@tx_isolation")
        return [list(map(list, rows)), cursor.fetchone(), connection.mysql_version, connection.is_usable()]


CASES = [schema, create, query, update, delete, integrity, savepoints, iterate, raw]

for case in CASES:
    try:
        seen = {"seen": case()}
    except DatabaseError as error:
        seen = {"error": repr(error)}
    print(json.dumps({"case": f"orm/{case.__name__}", "steps": [seen]}, default=repr), flush=True)
