# Perl's DBD::MariaDB: runs the cases and prints what it showed, one case a line. As python/session.py.
use strict;
use warnings;
use utf8;
use DBI;
use Digest::SHA 'sha256_hex';
use Encode 'encode_utf8';
use JSON::PP;

my $json = JSON::PP->new->canonical->utf8;

sub shown {
    my ($value) = @_;
    return 'undef' unless defined $value;
    my $bytes = utf8::is_utf8($value) ? encode_utf8($value) : $value;
    return "text $value" if length $bytes <= 200 && $value !~ /[^\x20-\x7e]/;
    return 'bytes ' . (utf8::is_utf8($value) ? 'utf8 ' : '') . (length $bytes <= 100 ? unpack('H*', $bytes) : length($bytes) . ' ' . sha256_hex($bytes));
}

sub shown_rows {
    my @rows = map { [map { shown($_) } @$_] } @{ $_[0] };
    return \@rows if @rows <= 20;
    return { rows => scalar @rows, first => $rows[0], sha256 => sha256_hex($json->encode(\@rows)) };
}

sub parameter {
    my ($value) = @_;
    return $value unless ref $value eq 'HASH';
    my ($kind) = keys %$value;
    my $given = $value->{$kind};
    return pack('H*', $given) if $kind eq 'bytes';
    return $given->[0] x $given->[1] if $kind eq 'repeat';
    return pack('H*', $given->[0] x $given->[1]) if $kind eq 'repeat_bytes';
    return $given;
}

sub connected {
    my ($login) = @_;
    die { not_offered => 'option' } if $login->{attributes} || $login->{charset};
    my %flags = (mariadb_client_found_rows => $login->{found_rows} ? 1 : 0, mariadb_multi_statements => $login->{multi} ? 1 : 0, mariadb_compression => $login->{compress} ? 1 : 0);
    $flags{mariadb_local_infile} = $login->{local_infile} ? 1 : 0;
    %flags = (%flags, mariadb_ssl => 1, mariadb_ssl_ca_file => $login->{ca}, mariadb_ssl_verify_server_cert => 1) if $login->{tls};
    my $name = 'DBI:MariaDB:host=' . $login->{host} . ';port=' . $login->{port} . (defined $login->{schema} ? ";database=$login->{schema}" : '');
    # A session of its own for each; the server prepares where it can.
    return DBI->connect($name, $login->{user}, $login->{password}, { RaiseError => 1, PrintError => 0, AutoCommit => 1, mariadb_server_prepare => 1, mariadb_server_prepare_disable_fallback => 0, %flags });
}

sub results {
    my ($statement, $prepared) = @_;
    my @results;
    do {
        my $columns = $statement->{NUM_OF_FIELDS} || 0;
        my %meta = $columns ? map { $_ => $statement->{$_} } qw(NAME TYPE PRECISION NULLABLE mariadb_type_name mariadb_table mariadb_is_blob mariadb_is_auto_increment) : ();
        push @results, {
            meta => \%meta, affected => $statement->rows, rows => $columns ? shown_rows($statement->fetchall_arrayref) : undef,
            insert_id => $statement->last_insert_id, warnings => $statement->{mariadb_warning_count},
        };
            # The driver refuses to look for a second result of a prepared one.
    } while (!$prepared && $statement->more_results);
    return \@results;
}

my %kinds = (
    sql => sub { my ($db, $step) = @_; my $statement = $db->prepare($step->{sql}, { mariadb_server_prepare => 0 }); $statement->execute; results($statement) },
    prepare => sub {
        my ($db, $step) = @_;
        my $statement = $db->prepare($step->{prepare});
        my @seen;
        for my $values (@{ $step->{params} }) {
            my $place = 0;
            $statement->bind_param(++$place, parameter($_), ref $_ eq 'HASH' && ($_->{bytes} || $_->{repeat_bytes}) ? DBI::SQL_BLOB() : undef) for @$values;
            $statement->execute;
            push @seen, results($statement, 1);
        }
        \@seen;
    },
    cursor => sub {
        my ($db, $step) = @_;
        my $statement = $db->prepare($step->{cursor}, { mariadb_use_result => 1, mariadb_server_prepare => 0 });
        $statement->execute;
        my @rows;
        while (!defined $step->{batches} || @rows < $step->{size} * $step->{batches}) {
            my $row = $statement->fetchrow_arrayref or last;
            push @rows, [@$row];
        }
        $statement->finish;
        shown_rows(\@rows);
    },
    greeting => sub { my ($db) = @_; [map { $db->{$_} } qw(mariadb_serverinfo mariadb_serverversion mariadb_protoinfo mariadb_hostinfo mariadb_clientversion)] },
    ping => sub { $_[0]->ping ? 1 : 0 },
    begin => sub { $_[0]->begin_work },
    commit => sub { $_[0]->commit },
    rollback => sub { $_[0]->rollback },
    autocommit => sub { my ($db, $step) = @_; $db->{AutoCommit} = $step->{autocommit} ? 1 : 0; 1 },
    close => sub { $_[0]->disconnect },
);

my %opened;

sub session {
    my ($plan, $case, $name) = @_;
    return $opened{$name} //= connected({ %$plan, %{ $case->{connect}{$name} || {} } });
}

sub run_step {
    my ($plan, $case, $step) = @_;
    $step = { sql => $step } unless ref $step;
    my ($kind) = grep { $_ !~ /^(on|fails|params|size|batches|binary)$/ } keys %$step;
    die { not_offered => $kind } unless $kinds{$kind};
    my %filled = %$step;
    if (defined $filled{sql}) {
        $filled{sql} =~ s/\{x:(\d+)\}/'x' x $1/ge;
        $filled{sql} =~ s/\{id(?::(\w+))?\}/session($plan, $case, $1 || 'a')->{mariadb_thread_id}/ge;
    }
    return $kinds{$kind}->(session($plan, $case, $step->{on} || 'a'), \%filled);
}

local $| = 1;
open my $file, '<', $ARGV[0] or die "$ARGV[0]: $!";
my $plan = $json->decode(do { local $/; <$file> });
my $cases = delete $plan->{cases};
my $cleaner = connected($plan);
for my $case (@$cases) {
    $cleaner->do($_) for @{ $plan->{clean} };
    my (@steps, $missing);
    for my $step (@{ $case->{steps} }) {
        my @told;
        local $SIG{__WARN__} = sub { push @told, $_[0] };
        my $seen = eval { run_step($plan, $case, $step) };
        if (my $error = $@) {
            if (ref $error) { $missing = $error->{not_offered}; last }
            push @steps, { error => [$DBI::err, $DBI::state, shown($DBI::errstr)] };
            next;
        }
        push @steps, { seen => $seen, (@told ? (told => \@told) : ()) };
    }
    for my $session (values %opened) { eval { $session->disconnect } }
    %opened = ();
    my $line = $json->encode(defined $missing ? { not_offered => $missing } : { steps => \@steps });
    print '{"case": ' . $json->allow_nonref->encode($case->{name}) . ', ' . substr($line, 1) . "\n";
}
